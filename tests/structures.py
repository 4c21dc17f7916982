"""Structure files for tests: PDB by hand, and what gemmi writes of generated chains."""

from __future__ import annotations

import gzip
from pathlib import Path

import gemmi
import numpy as np

from care_core.data import chains
from care_core.data.clouds import Floats


def pdb(*chains: tuple[str, Floats], extra: str = "", model: bool = False) -> str:
    """ATOM records of (name, CA trace) chains of alanine, in the PDB format's columns."""
    lines, serial = [], 0
    for name, trace in chains:
        for number, (x, y, z) in enumerate(trace, start=1):
            serial += 1
            lines.append(
                f"ATOM  {serial:5d}  CA  ALA {name}{number:4d}    "
                f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C  "
            )
        lines.append("TER")
    body = "\n".join(lines) + "\n" + extra
    return (f"MODEL        1\n{body}ENDMDL\n" if model else body) + "END\n"


def write(path: Path, seed: int = 0, residues: int = 60) -> Floats:
    """A backbone as PDB or mmCIF by the name's ending, packed for .gz; returns its CA trace."""
    atoms = chains.generate(1, seed).atoms[0, :residues]
    structure, model, chain = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A")
    for number, places in enumerate(atoms, start=1):
        residue = gemmi.Residue()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(str(number))
        for name, element, place in zip(("N", "CA", "C"), ("N", "C", "C"), places, strict=True):
            atom = gemmi.Atom()
            atom.name, atom.element, atom.pos = name, gemmi.Element(element), gemmi.Position(*place)
            residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    text = (
        structure.make_mmcif_document().as_string()
        if ".cif" in path.name
        else structure.make_pdb_string()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return np.asarray(atoms[:, 1])


def folder(root: Path, train: int = 12, test: int = 4, residues: int = 40) -> Path:
    """A folder of structures with train/ and test/, of all kinds of files."""
    endings = (".pdb", ".cif", ".ent", ".cif.gz", ".pdb.gz")
    for number in range(train + test):
        part = "train" if number < train else "test"
        write(root / part / f"s{number}{endings[number % len(endings)]}", number, residues)
    return root
