"""What a result says of the checkout that made it."""

from __future__ import annotations

import subprocess

from pdmd.benchmark import provenance


def test_a_checkout_is_changed_by_its_code_and_not_by_what_reports_say(tmp_path, monkeypatch) -> None:
    def git(*words: str) -> None:
        own = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *own, *words], check=True, capture_output=True)

    code, report = tmp_path / "benchmark" / "provenance.py", tmp_path / "reports" / "paper" / "README.md"
    for path in (code, report):
        path.parent.mkdir(parents=True)
        path.write_text("as committed\n")
    monkeypatch.setattr(provenance, "__file__", str(code))
    git("init")
    assert provenance.git_commit() is None
    git("add", ".")
    git("commit", "-m", "x")
    report.write_text("written since\n")
    (tmp_path / "new.txt").write_text("untracked\n")
    made = provenance.git_commit()
    assert made is not None
    assert len(made["commit"]) == 40
    assert made["changed"] is False
    code.write_text("changed since\n")
    made = provenance.git_commit()
    assert made is not None
    assert made["changed"] is True
