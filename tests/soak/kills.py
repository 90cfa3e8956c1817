"""Kill every command at random moments, again and again, and compare its result with an uninterrupted run's.

    python -m tests.soak.kills --kills 50

For each command: one uninterrupted run is the reference. Then rounds, until there were enough kills: in a fresh working
folder the command is started, killed and started anew, always with the same command line, until it ends by itself.
Half of the kills come at a moment drawn evenly from the length of the reference run; half while something is being
written: after the n-th file or folder in the making is seen, n drawn evenly, within the time that one takes. After
every kill what is on disk is inspected; at the end the output must be the reference's, file by file: byte by
byte, but for the times in a training's records and log (weights, averaged weights and optimiser state have none), and
nothing unfinished may lie about. In every second round an earlier output of other settings is there first, which must
survive until the new one takes its place. Every other pair of rounds runs as on a system that cannot swap two folders
in one step.

What this proves: the processes are real and die by a real SIGKILL, without a chance to clean up. They are forked from
one that has imported the package but run none of it (see ``launcher.py``), so the moments of the kills lie in the work
and not in the seconds of importing. The reference of the long form is an ordinary, unforked process. SIGKILL leaves
the system's file cache in place: it does not prove what a loss of power would leave.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .commands import CASES, LOST, SETTINGS, Before, Case, differences
from .launcher import OUT, Ending, Kill, Launcher, unfinished

MAX_STARTS = 60  # of a round, before it counts as stuck
KILLS_BEFORE_END = 2  # of a round in which each start begins anew


@dataclass
class Result:
    """What was seen of one command.

    Attributes:
        command: Its name.
        kills: All kills.
        while_saving: Kills that left something unfinished behind.
        resumed_from: Where later starts went on (steps, or finished shards), one entry a start.
        anew: Later starts that began anew.
        rounds: Times that it ended and was compared.
        over_earlier: Rounds of these over an earlier output.
        problems: What was lost, torn or different.
        seconds: Wall time.
    """

    command: str
    kills: int = 0
    while_saving: int = 0
    resumed_from: list[int] = field(default_factory=list)
    anew: int = 0
    rounds: int = 0
    over_earlier: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def line(self) -> str:
        """One line for people."""
        places = sorted(set(self.resumed_from))
        resumed = f"{len(self.resumed_from)} (at {', '.join(map(str, places))})" if places else "0"
        return (
            f"{self.command}: {self.kills} kills, {self.while_saving} while saving, resumed {resumed}, "
            f"begun anew {self.anew}, compared {self.rounds}, {self.over_earlier} over an earlier output, "
            f"equal {'no' if self.problems else 'yes'}, {self.seconds:.0f} s"
        )


class Soak:
    """Kills commands below one folder.

    Args:
        root: An empty folder.
        chain: Folder of a chain of artifacts, see :mod:`tests.chain`.
        launcher: The warmed process.
        seed: Of the moments of the kills.
        alone: Whether references are unforked processes.
    """

    def __init__(self, root: Path, chain: Path, launcher: Launcher, seed: int, alone: bool) -> None:
        from tests.chain import write_text

        self.root, self.launcher, self.seed, self.alone = root, launcher, seed, alone
        inputs = root / "inputs"
        shutil.copytree(chain, inputs)
        (inputs / "soak.toml").write_text(SETTINGS)
        write_text(inputs / "soak.txt", documents=400)
        self._finish(("encode", "--ae", "ckpt/ae", "--out", "latents"), inputs)

    def run(self, case: Case, kills: int) -> Result:
        """Kill one command ``kills`` times at least, and until it then ends."""
        start, result = time.monotonic(), Result(case.name)
        reference = self._place(f"{case.name}-reference")
        if self.alone:
            self._finish(case.arguments, reference, alone=True)
        length = self._finish(case.arguments, reference if not self.alone else self._place(f"{case.name}-timed"))
        earlier = None
        if case.earlier is not None:
            earlier = self._place(f"{case.name}-earlier") / OUT
            self._finish((*case.arguments, *case.earlier), earlier.parent)
        source = random.Random(f"{self.seed} {case.name}")
        while result.kills < kills and not result.problems:
            number = result.rounds
            round_ = _Round(case, reference / OUT, earlier if number % 2 else None, number % 4 >= 2, length)
            try:
                self._round(round_, self._place(f"{case.name}-{number}"), result, kills, source)
            except LOST as error:
                result.problems.append(f"round {number}: {type(error).__name__}: {error}")
        result.seconds = time.monotonic() - start
        return result

    def _round(self, round_: "_Round", place: Path, result: Result, kills: int, source: random.Random) -> None:
        case, log = round_.case, self._log(place)
        before = Before(0, round_.earlier)
        arguments = case.arguments
        if round_.earlier is not None:
            _copy(round_.earlier, place / OUT)
            arguments += case.replace
        begins_anew = not case.goes_on or round_.earlier is not None
        last_kill = min(kills, result.kills + KILLS_BEFORE_END) if begins_anew else kills
        for start in range(MAX_STARTS):
            if start:
                result.anew += before.position == 0
                result.resumed_from += [before.position] if before.position else []
            kill = round_.draw(source) if result.kills < last_kill else None
            already = unfinished(place)
            ending = self.launcher.run(arguments, place, log, kill, round_.two_steps)
            if ending.status != -signal.SIGKILL:
                assert ending.status == 0, f"status {ending.status}: {log.read_text().splitlines()[-1:]}"
                break
            result.kills += 1
            result.while_saving += bool(unfinished(place) - already)
            before = replace(before, position=case.inspect(place, round_.reference, before))
        else:
            raise AssertionError(f"no end after {MAX_STARTS} starts")
        left = sorted(str(path.relative_to(place)) for path in place.rglob("*") if ".partial" in path.name)
        left += [path.name for path in unfinished(place) if ".old" in path.name]
        assert not left, f"left over: {left}"
        problems = differences(place / OUT, round_.reference, case.read)
        assert not problems, f"not as the uninterrupted run: {problems}"
        result.rounds += 1
        result.over_earlier += round_.earlier is not None
        shutil.rmtree(place)

    def _place(self, name: str) -> Path:
        place = self.root / "work" / name
        place.mkdir(parents=True)
        return place

    def _log(self, place: Path) -> Path:
        logs = self.root / "logs"
        logs.mkdir(exist_ok=True)
        return logs / f"{place.name}.log"

    def _finish(self, arguments: Sequence[str], place: Path, alone: bool = False) -> Ending:
        """Run a command to its end, which must be good."""
        log = self._log(place)
        if alone:
            ending = Ending(self.launcher.run_alone(arguments, place, log), 0.0, 0, 0.0)
        else:
            ending = self.launcher.run(arguments, place, log)
        assert ending.status == 0, f"{' '.join(arguments)}: {log.read_text()}"
        return ending


@dataclass(frozen=True)
class _Round:
    case: Case
    reference: Path
    earlier: Path | None
    two_steps: bool
    length: Ending

    def draw(self, source: random.Random) -> Kill:
        """The moment of the next kill."""
        if source.random() < 0.5 or not self.length.saves:
            return Kill(source.uniform(0, self.length.seconds))
        within = source.choice((0.0, source.uniform(0, self.length.longest_save)))  # at once: some take no millisecond
        return Kill(within, source.randint(1, self.length.saves))


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        shutil.copyfile(source, target)
    else:
        shutil.copytree(source, target)


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """All results as JSON has them."""
    commands = [vars(result) | {"resumed_from": sorted(set(result.resumed_from))} for result in results]
    resumed = sum(len(result.resumed_from) for result in results)
    totals = {name: sum(getattr(r, name) for r in results) for name in ("kills", "while_saving", "anew", "rounds")}
    equal = not any(result.problems for result in results)
    return {"equal": equal, "resumed": resumed} | totals | {"commands": commands}


def main() -> int:
    """The script."""
    from tests.chain import build_chain

    parser = argparse.ArgumentParser(description="Kill commands at random moments; compare with uninterrupted runs.")
    names = [case.name for case in CASES]
    parser.add_argument("--kills", type=int, default=50, help="of each command, at least")
    parser.add_argument("--command", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--keep", action="store_true", help="keep the working folder")
    given = parser.parse_args()
    start, results = time.monotonic(), []
    root = Path(tempfile.mkdtemp(prefix="diladiff-soak-"))
    try:
        chain = build_chain(root / "chain")
        with Launcher(root / "caches") as launcher:
            soak = Soak(root, chain.root, launcher, given.seed, alone=True)
            for case in CASES:
                if given.command is None or case.name in given.command:
                    results.append(soak.run(case, given.kills))
                    print(results[-1].line(), *results[-1].problems, sep="\n  ", file=sys.stderr, flush=True)
    finally:
        if given.keep:
            print(f"kept: {root}", file=sys.stderr)
        else:
            shutil.rmtree(root, ignore_errors=True)
    report = {"seed": given.seed, "seconds": time.monotonic() - start} | summary(results)
    print(json.dumps(report, indent=2))
    return 0 if report["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
