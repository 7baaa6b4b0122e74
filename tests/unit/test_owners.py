"""The owners of sockets are found in small steps, the likeliest first."""

from itertools import pairwise
from pathlib import Path

import pytest
from proctree import PF_KTHREAD, ProcTree

from sockwatch.kernel.owners import MISSING, PAUSE, REFRESH_AFTER, OwnerFinder
from sockwatch.kernel.processes import BATCH
from sockwatch.kernel.sightings import Holder, Sightings, each_once, likely_order
from sockwatch.tcp.owners import PROCESSES_LIMIT, Owners, Process

AMPLE = 1e9


class Ticks:
    """A clock by which each step takes one second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    """A host whose first process holds nothing."""
    made = ProcTree(tmp_path)
    made.start(1, name="systemd", ticks=1, cgroup="/init.scope")
    return made


@pytest.fixture
def finder(tree: ProcTree) -> OwnerFinder:
    return OwnerFinder(tree.root, Ticks())


def pids(finder: OwnerFinder, inode: int) -> list[int]:
    owners = finder.owners(inode)
    return [process.pid for process in owners.processes] if owners else []


def steps_until_found(finder: OwnerFinder, wanted: frozenset[int], inode: int, now: float) -> int:
    for step in range(1, 1000):
        finder.advance(wanted, 0, now)
        if finder.owners(inode):
            return step
    raise AssertionError(f"no owner of {inode}")


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


# What is found


def test_each_accepted_socket_belongs_to_the_worker_that_accepted_it(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    """Two of five workers leak: all five share listener 7."""
    for pid in range(10, 15):
        tree.start(pid, [7, *([pid * 10, pid * 10 + 1] if pid < 12 else [])], name="worker")
    finder.advance({7, 100, 101, 110, 111}, AMPLE, 0)
    assert pids(finder, 7) == [10, 11, 12, 13, 14]
    assert pids(finder, 100) == pids(finder, 101) == [10]
    assert pids(finder, 110) == [11]
    assert finder.owners(111) == Owners((Process(11, "worker", 10.0),), 1)


def test_of_many_that_share_a_socket_the_oldest_are_named_and_all_counted(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    many = range(100, 100 + PROCESSES_LIMIT + 5)
    for pid in many:
        tree.start(pid, [7, 7], ticks=5000 - pid)
    finder.advance({7}, AMPLE, 0)
    assert pids(finder, 7) == sorted(many, reverse=True)[:PROCESSES_LIMIT]
    owners = finder.owners(7)
    assert owners
    assert owners.count == len(many)


def test_who_share_a_socket_are_counted_by_a_whole_round_only(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    for pid in (50, 51):
        tree.start(pid, [7], cgroup="/app.service")
    steps_until_found(finder, frozenset({7}), 7, 0)
    counts = [finder.owners(7)]
    finder.advance({7}, AMPLE, 0)
    counts.append(finder.owners(7))
    for pid in (50, 51):
        tree.open(pid, 8)
    for now in (1, REFRESH_AFTER):
        finder.advance({7, 8}, AMPLE, now)
        counts.append(finder.owners(8))
    assert [owners and owners.count for owners in counts] == [None, 2, None, 2]
    assert None not in counts


def test_what_was_searched_out_beside_a_round_stays_uncounted_until_the_next() -> None:
    processes, seen = [Process(pid, "app", 10.0) for pid in (50, 51)], Sightings()
    seen.begin_round()
    seen.in_search(7, processes[0])
    seen.end_round()
    assert seen.owners(7) == Owners((processes[0],), None)
    seen.begin_round()
    for process in processes:
        seen.in_round(7, process)
    assert seen.owners(7) == Owners((processes[0],), None)
    seen.end_round()
    assert seen.owners(7) == Owners(tuple(processes), 2)


def test_systemd_owns_the_listener_that_it_activates_by_only_until_the_service_runs(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    tree.open(1, 7)
    finder.advance({7}, AMPLE, 0)
    assert pids(finder, 7) == [1]
    tree.start(50, [7])
    finder.advance({7}, AMPLE, REFRESH_AFTER)
    assert pids(finder, 7) == [50]


def test_systemd_is_not_even_named_before_the_others_were_looked_at(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    tree.open(1, 7)
    tree.start(50, [7])
    steps_until_found(finder, frozenset({7}), 7, 0)
    assert pids(finder, 7) == [50]


@pytest.mark.parametrize(("state", "flags"), [("Z", 0), ("S", PF_KTHREAD)])
def test_zombies_and_kernel_threads_are_passed_over(
    tree: ProcTree, finder: OwnerFinder, state: str, flags: int
) -> None:
    tree.start(50, [7], state=state, flags=flags)
    tree.forbid(50)
    finder.advance({7}, AMPLE, 0)
    assert (finder.owners(7), finder.denied, finder.missing) == (None, 0, None)


def test_only_wanted_sockets_have_owners(tree: ProcTree, finder: OwnerFinder) -> None:
    tree.start(50, [7, 8])
    tree.link(50, "/dev/null")
    finder.advance({7, 9}, AMPLE, 0)
    assert [finder.owners(inode) is None for inode in (7, 8, 9)] == [False, True, True]


# In which steps


def test_a_call_does_as_many_steps_as_its_budget_allows(tree: ProcTree) -> None:
    """A step is a process or a batch of descriptors; 50 of the first, 10 of the second."""
    for pid in range(100, 149):
        tree.start(pid)
    tree.start(200, range(1, 10 * BATCH + 1))
    calls = {}
    for budget in (1, 4, 16):
        finder = OwnerFinder(tree.root, Ticks())
        calls[budget] = 0
        while not finder.rounds:
            finder.advance({1}, budget, 0)
            calls[budget] += 1
    assert 61 <= calls[1] <= 63
    assert calls[4] == -(-calls[1] // 4)
    assert calls[16] == -(-calls[1] // 16)


def test_a_call_without_budget_goes_on_by_one_batch(tree: ProcTree, finder: OwnerFinder) -> None:
    wanted = frozenset(range(1, 10 * BATCH + 1))
    tree.start(50, wanted)
    found = [0]
    while not finder.rounds:
        finder.advance(wanted, 0, 0)
        found.append(sum(finder.owners(inode) is not None for inode in wanted))
    assert {after - before for before, after in pairwise(found)} == {0, BATCH}
    assert found[-1] == len(wanted)


def test_what_is_found_early_is_known_early(tree: ProcTree, finder: OwnerFinder) -> None:
    tree.start(50, range(1, 10 * BATCH + 1))
    steps_until_found(finder, frozenset(range(1, 1000)), 1, 0)
    assert finder.rounds == 0


def test_between_rounds_holders_of_wanted_sockets_are_searched_and_their_mates(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    for pid in range(100, 300):
        tree.start(pid, cgroup="/other.service")
    tree.start(400, [7])
    finder.advance({7}, AMPLE, 0)
    tree.open(400, 8)
    assert steps_until_found(finder, frozenset({7, 8}), 8, 1) <= 3
    tree.start(500, [9])
    assert steps_until_found(finder, frozenset({7, 8, 9}), 9, 1) <= 6
    assert finder.rounds == 1


def test_a_new_socket_of_a_known_process_is_found_amid_a_long_round(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    tree.start(50, [7])
    finder.advance({7}, AMPLE, 0)
    for pid in range(100, 300):
        tree.start(pid, cgroup="/other.service")
    finder.advance({7}, 20, REFRESH_AFTER)
    tree.open(50, 8)
    assert steps_until_found(finder, frozenset({7, 8}), 8, REFRESH_AFTER) <= 6
    assert finder.rounds == 1


def test_a_round_ends_although_searches_never_do(tree: ProcTree, finder: OwnerFinder) -> None:
    tree.start(50, [7])
    for pid in range(100, 200):
        tree.start(pid, cgroup="/other.service")
    finder.advance({7}, AMPLE, 0)
    wanted = {7}
    for step in range(500):
        wanted |= {1000 + step}
        finder.advance(wanted, 0, PAUSE + REFRESH_AFTER)
    assert finder.rounds == 2


def test_a_search_skips_what_it_knows_and_the_next_round_looks_again(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    tree.start(50, [7])
    finder.advance({7}, AMPLE, 0)
    tree.close(50, 0)
    (tree.root / "50/fd/0").symlink_to("socket:[8]")
    finder.advance({7, 8}, AMPLE, 1)
    assert (pids(finder, 7), pids(finder, 8)) == ([50], [])
    finder.advance({7, 8}, AMPLE, PAUSE)
    assert (pids(finder, 7), pids(finder, 8)) == ([], [50])


def test_a_search_ends_when_everything_is_found(tree: ProcTree) -> None:
    clock = Ticks()
    finder = OwnerFinder(tree.root, clock)
    tree.start(50, [7] * 10 * BATCH)
    finder.advance({7}, AMPLE, 0)
    for _ in range(10 * BATCH):
        tree.open(50, 8)
    before = clock.now
    finder.advance({7, 8}, AMPLE, 1)
    assert pids(finder, 8) == [50]
    assert clock.now - before < 20


def test_only_holders_are_remembered_and_what_they_hold(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    for pid in (50, 60, 70):
        tree.start(pid, [pid])
    tree.start(80, [4])
    finder.advance({50, 60, 70}, AMPLE, 0)
    tree.open(50, 51)
    finder.advance({50, 60, 70, 51}, AMPLE, 1)
    known = {pid: holder.known for pid, holder in finder._holders.items()}
    assert known == {50: {"0": 50, "1": 51}, 60: {"0": 60}, 70: {"0": 70}}
    tree.end(60)
    tree.close(70, 0)
    finder.advance({50, 60, 70, 51}, AMPLE, REFRESH_AFTER)
    assert finder._holders.keys() == {50}


def test_the_process_with_the_fewest_descriptors_is_the_first_to_look_at() -> None:
    def holder(pid: int, size: int, cgroup: str | None) -> Holder:
        return Holder(Process(pid, "", 0.0), size, cgroup)

    holders = [holder(3, 90, "/b"), holder(4, 7, None), holder(5, 50, "/a"), holder(6, 60, "/b")]
    assert likely_order(holders) == ([4, 5, 6, 3], ["/a", "/b"])


def test_nobody_is_visited_twice_and_the_first_process_last() -> None:
    assert list(each_once([5, 1, 7, 5, 1, 6])) == [5, 7, 6, 1]
    assert list(each_once([5, 5])) == [5]


# When


def test_without_wanted_sockets_nothing_is_done(tree: ProcTree, finder: OwnerFinder) -> None:
    for now in range(100):
        finder.advance((), AMPLE, now)
    assert (finder.rounds, finder.missing) == (0, None)


def test_rounds_rest_while_there_is_nothing_new(tree: ProcTree, finder: OwnerFinder) -> None:
    tree.start(50, [7])
    rounds = []
    for now in range(int(3 * REFRESH_AFTER)):
        finder.advance({7, 8}, AMPLE, now)
        rounds.append(finder.rounds)
    assert rounds.count(1) == rounds.count(2) == rounds.count(3) == REFRESH_AFTER


def test_a_socket_in_nobody_s_neighbourhood_waits_for_the_pause(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    finder.advance({7}, AMPLE, 0)
    tree.start(50, [8], cgroup="/new.service")
    found = []
    for now in range(1, 2 * int(PAUSE)):
        finder.advance({7, 8}, AMPLE, now)
        found.append(pids(finder, 8) == [50])
    assert found.index(True) == PAUSE - 1
    assert finder.rounds == 2


# Processes that come and go


def test_what_was_searched_out_is_known_until_a_round_had_its_chance() -> None:
    process, seen = Process(50, "app", 10.0), Sightings()
    seen.in_search(7, process)
    known = []
    for step in (seen.begin_round, seen.end_round):
        step()
        known.append(seen.owners(7) is not None)
    assert known == [True, False]


def test_what_was_searched_out_beside_a_round_survives_it() -> None:
    process, seen = Process(50, "app", 10.0), Sightings()
    seen.begin_round()
    seen.in_search(7, process)
    known = []
    for step in (seen.end_round, seen.begin_round, seen.end_round):
        step()
        known.append(seen.owners(7) is not None)
    assert known == [True, True, False]
    assert seen.unseen(frozenset({7})) == {7}


def test_a_process_id_used_again_is_another_process(tree: ProcTree, finder: OwnerFinder) -> None:
    tree.start(50, [7], ticks=1000)
    finder.advance({7}, AMPLE, 0)
    tree.end(50)
    tree.start(50, [7], ticks=2000, name="next")
    finder.advance({7}, AMPLE, REFRESH_AFTER)
    assert finder.owners(7) == Owners((Process(50, "next", 20.0),), 1)


def test_what_was_known_of_a_process_is_not_believed_of_the_next_with_its_id(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    tree.start(50, [7])
    finder.advance({7}, AMPLE, 0)
    tree.end(50)
    tree.start(50, [8], ticks=2000)
    finder.advance({7, 8}, AMPLE, 1)
    assert finder.owners(8) == Owners((Process(50, "app", 20.0),), None)


def test_a_process_id_used_again_amid_the_visit_does_not_mix_two_processes(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    wanted = frozenset(range(1, 4 * BATCH + 1)) | {9999}
    tree.start(50, wanted - {9999})
    steps_until_found(finder, wanted, 1, 0)
    tree.end(50)
    tree.start(50, [9999], ticks=2000)
    finder.advance(wanted, AMPLE, 0)
    assert finder.owners(9999) is None
    finder.advance(wanted, AMPLE, REFRESH_AFTER)
    assert finder.owners(9999) == Owners((Process(50, "app", 20.0),), 1)
    assert finder.owners(1) is None


def test_a_process_that_vanishes_amid_the_visit_is_no_error(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    wanted = frozenset(range(1, 4 * BATCH + 1)) | {9999}
    tree.start(50, wanted - {9999})
    tree.start(60, [9999])
    steps_until_found(finder, wanted, 1, 0)
    tree.end(50)
    finder.advance(wanted, AMPLE, 0)
    assert (pids(finder, 9999), finder.rounds, finder.denied) == ([60], 1, 0)


def test_a_socket_handed_to_another_process_changes_its_owner_with_the_next_round(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    tree.start(50, [7, 8])
    finder.advance({7, 8}, AMPLE, 0)
    tree.close(50, 0)
    tree.start(60, [7])
    finder.advance({7, 8}, AMPLE, REFRESH_AFTER)
    assert (pids(finder, 7), pids(finder, 8)) == ([60], [50])


# What is missing


def test_what_is_forbidden_is_counted_and_said(tree: ProcTree, finder: OwnerFinder) -> None:
    tree.start(50, [7])
    tree.start(60, [8])
    tree.forbid(60)
    steps_until_found(finder, frozenset({7, 8}), 7, 0)
    before = finder.missing
    finder.advance({7, 8}, AMPLE, 0)
    assert (pids(finder, 7), finder.denied, finder.missing) == ([50], 1, MISSING)
    assert before is None


def test_nothing_is_missing_before_a_whole_round_has_looked_for_it(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    tree.start(50, range(7, 4 * BATCH))
    tree.start(60)
    tree.forbid(60)
    steps_until_found(finder, frozenset({7, 8}), 7, 0)
    finder.advance({7, 9999}, AMPLE, 0)
    assert (finder.rounds, finder.missing) == (1, None)
    finder.advance({7, 9999}, AMPLE, PAUSE)
    assert (finder.rounds, finder.missing) == (2, MISSING)


def test_nothing_is_missing_if_every_wanted_socket_has_its_owner(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    tree.start(50, [7])
    tree.start(60)
    tree.forbid(60)
    finder.advance({7}, AMPLE, 0)
    assert (finder.denied, finder.missing) == (1, None)


def test_a_proc_that_hides_other_users_is_noticed(tree: ProcTree, finder: OwnerFinder) -> None:
    tree.end(1)
    tree.start(50, [7])
    finder.advance({7, 8}, AMPLE, 0)
    assert (pids(finder, 7), finder.denied, finder.missing) == ([50], 0, MISSING)


def test_a_socket_that_nobody_holds_lacks_no_permission(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    finder.advance({7}, AMPLE, 0)
    assert (finder.rounds, finder.missing) == (1, None)


def test_a_machine_without_proc_has_no_owners(tmp_path: Path) -> None:
    finder = OwnerFinder(tmp_path / "nowhere")
    finder.advance({7}, AMPLE, 0)
    assert (finder.owners(7), finder.rounds, finder.missing) == (None, 1, MISSING)


def test_no_directory_stays_open_after_a_round_or_close(
    tree: ProcTree, finder: OwnerFinder
) -> None:
    before = descriptors()
    tree.start(50, range(1, 4 * BATCH))
    steps_until_found(finder, frozenset({1, 9999}), 1, 0)
    assert descriptors() > before
    finder.close()
    assert descriptors() == before
    finder = OwnerFinder(tree.root)
    finder.advance({1}, AMPLE, 0)
    assert descriptors() == before
