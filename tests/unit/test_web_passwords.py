"""Who may come in by password, at whose cost, and what a wrong one tells."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import bcrypt
import pytest

from sockwatch.web import passwords
from sockwatch.web.passwords import MOST_WRONG, Passwords, Verdict

RIGHT, WRONG, LATER = Verdict.RIGHT, Verdict.WRONG, Verdict.LATER


def hashed(password: bytes, cost: int = 4) -> str:
    return bcrypt.hashpw(password, bcrypt.gensalt(cost)).decode()


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Door:
    """Passwords, and how many bcrypt comparisons they have cost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, users: dict[str, str]) -> None:
        self.clock = Clock()
        self.passwords = Passwords(users, self.clock)
        self.compared: list[str] = []
        self.costs = 0.0
        compare = passwords._compare

        def counted(password: bytes, against: str) -> tuple[bool, float]:
            self.compared.append(against)
            return compare(password, against)[0], self.costs

        monkeypatch.setattr(passwords, "_compare", counted)

    def check(self, user: str, password: bytes, client: str = "192.0.2.1") -> Verdict:
        return asyncio.run(self.passwords.check(user, password, client))

    def guess(self, count: int, client: str = "192.0.2.1") -> list[Verdict]:
        """What different wrong passwords get, one after the other."""
        start = len(self.compared)
        return [
            self.check("alice", b"%s-%d-%d" % (client.encode(), start, n), client)
            for n in range(count)
        ]


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    return Door(monkeypatch, {"alice": hashed(b"secret"), "bob": hashed(b"other")})


def test_the_right_password_of_a_user_lets_in(door: Door) -> None:
    assert door.check("alice", b"secret") is RIGHT
    assert door.check("bob", b"other") is RIGHT


@pytest.mark.parametrize(
    ("user", "password"),
    [("alice", b"Secret"), ("alice", b""), ("alice", b"other"), ("carol", b"secret"), ("", b"")],
)
def test_anything_else_does_not(door: Door, user: str, password: bytes) -> None:
    assert door.check(user, password) is WRONG


def test_hashes_of_all_usual_spellings_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    made = hashed(b"secret")
    users = {letter: f"$2{letter}${made[4:]}" for letter in "aby"}
    door = Door(monkeypatch, users)
    assert [door.check(letter, b"secret") for letter in users] == [RIGHT] * 3


def test_a_password_that_bcrypt_would_cut_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(monkeypatch, {"alice": hashed(b"x" * 72)})
    assert door.check("alice", b"x" * 73) is WRONG
    assert door.compared == []
    assert door.check("alice", b"x" * 72) is RIGHT


def test_a_nul_does_not_end_a_password(door: Door) -> None:
    assert door.check("alice", b"secret\0more") is WRONG


def test_what_was_found_is_remembered(door: Door) -> None:
    for _ in range(3):
        assert door.check("alice", b"secret") is RIGHT
        assert door.check("alice", b"wrong") is WRONG
        assert door.check("carol", b"secret") is WRONG
    assert len(door.compared) == 3


def test_what_is_remembered_is_bounded(door: Door) -> None:
    door.guess(MOST_WRONG + 20)
    assert len(door.passwords._wrong) == MOST_WRONG
    assert door.check("alice", b"secret") is RIGHT
    assert len(door.passwords._right) == 1


def test_no_password_is_kept(door: Door) -> None:
    door.check("alice", b"secret")
    door.check("alice", b"wrong")
    kept = repr((door.passwords._right, door.passwords._wrong))
    assert "secret" not in kept
    assert "wrong" not in kept


def test_a_changed_hash_forgets_the_old_password(door: Door) -> None:
    assert door.check("alice", b"secret") is RIGHT
    door.passwords.users = {"alice": hashed(b"new")}
    assert door.check("alice", b"secret") is WRONG
    assert door.check("alice", b"new") is RIGHT
    assert door.check("bob", b"other") is WRONG


def test_a_removed_user_is_forgotten(door: Door) -> None:
    assert door.check("bob", b"other") is RIGHT
    door.passwords.users = {"alice": door.passwords.users["alice"]}
    assert door.check("bob", b"other") is WRONG
    assert door.check("alice", b"secret") is RIGHT
    assert set(door.passwords._right) == {"alice"}


# A name that nobody has


def test_an_unknown_name_costs_what_a_known_one_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = 8
    users = {name: hashed(b"secret", cost) for name in ("alice", "bob")}

    def seconds(user: str) -> float:
        """Least CPU time of a comparison of a new password."""
        spent = []
        for number in range(7):
            asked = Passwords(users)._question(user, b"wrong%d" % number)
            spent.append(passwords._compare(asked.password, asked.hashed)[1])
        return min(spent)

    assert seconds("carol") == pytest.approx(seconds("alice"), rel=0.3)


def test_unknown_names_seem_to_have_the_costs_of_known_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door = Door(monkeypatch, {"alice": hashed(b"secret", 4), "bob": hashed(b"secret", 5)})
    for name in "abcdefghijklmnopqrst":
        door.check(name, b"secret")
    assert {against[:7] for against in door.compared} == {"$2b$04$", "$2b$05$"}
    door.compared.clear()
    for number in range(5):
        door.check("carol", b"%d" % number)
    assert len(set(door.compared)) == 1


def test_the_hash_of_nobody_is_one_that_bcrypt_takes(door: Door) -> None:
    against = door.passwords._hash_of_nobody("carol")
    assert not bcrypt.checkpw(b"", against.encode())
    assert against not in door.passwords.users.values()


def test_not_even_the_password_of_nobody_lets_in(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "_NOBODY", hashed(b"nobody's")[7:])
    assert bcrypt.checkpw(b"nobody's", door.passwords._hash_of_nobody("carol").encode())
    assert [door.check("carol", b"nobody's") for _ in range(2)] == [WRONG] * 2


# What wrong passwords may cost


def test_who_guesses_is_put_off_once_the_allowance_is_used_up(door: Door) -> None:
    door.costs = 0.125
    verdicts = door.guess(50)
    assert verdicts == [WRONG] * 8 + [LATER] * 42
    assert len(door.compared) == 8


def test_an_allowance_grows_again(door: Door) -> None:
    door.costs = 0.125
    door.guess(50)
    door.clock.now += 60
    assert door.guess(50).count(WRONG) == 8
    door.clock.now += 5  # a twentieth of a core, for five seconds
    assert door.guess(50).count(WRONG) == 2


def test_the_right_password_waits_as_well_once_it_is_used_up(door: Door) -> None:
    door.costs = 0.125
    door.guess(50)
    assert door.check("alice", b"secret") is LATER
    assert door.check("alice", b"secret", "192.0.2.2") is RIGHT
    assert door.check("alice", b"secret") is RIGHT


def test_who_is_in_stays_in_whoever_guesses(door: Door) -> None:
    assert door.check("alice", b"secret") is RIGHT
    door.costs = 0.125
    door.guess(50)
    assert door.check("alice", b"secret") is RIGHT


def test_many_clients_together_have_an_allowance_too(door: Door) -> None:
    door.costs = 0.125
    verdicts = [verdict for n in range(40) for verdict in door.guess(3, f"192.0.2.{n}")]
    assert verdicts.count(WRONG) == 16
    door.clock.now += 4  # a quarter of a core, for four seconds
    assert sum(door.guess(1, f"198.51.100.{n}") == [WRONG] for n in range(40)) == 8


def test_clients_that_are_remembered_are_bounded(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "MOST_CLIENTS", 5)
    for number in range(20):
        door.guess(1, f"192.0.2.{number}")
    assert list(door.passwords._spent) == [f"192.0.2.{number}" for number in range(15, 20)]


def test_a_right_password_costs_nothing(door: Door) -> None:
    door.costs = 5.0
    assert door.check("alice", b"secret") is RIGHT
    assert door.guess(1) == [WRONG]


# At a time


def gather(*work: Callable[[], Awaitable[Verdict]]) -> list[Verdict]:
    async def together() -> list[Verdict]:
        return list(await asyncio.gather(*(one() for one in work)))

    return asyncio.run(together())


def test_one_is_compared_at_a_time_and_few_wait(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[int] = []
    most = 0

    def slow(_password: bytes, _against: str) -> tuple[bool, float]:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        time.sleep(0.01)
        running.pop()
        return False, 0.0

    monkeypatch.setattr(passwords, "_compare", slow)
    verdicts = gather(
        *(lambda n=n: door.passwords.check("alice", b"%d" % n, "") for n in range(30))
    )
    assert most == 1
    assert verdicts == [WRONG] * passwords.MOST_WAITING + [LATER] * (30 - passwords.MOST_WAITING)


def test_the_same_question_at_the_same_time_is_answered_once(door: Door) -> None:
    verdicts = gather(*[lambda: door.passwords.check("alice", b"secret", "")] * 5)
    assert verdicts == [RIGHT] * 5
    assert len(door.compared) == 1


def test_the_event_loop_goes_on_meanwhile() -> None:
    users = {"alice": hashed(b"secret", 11)}

    async def longest_pause() -> float:
        check = asyncio.create_task(Passwords(users).check("alice", b"secret", ""))
        worst, last = 0.0, time.monotonic()
        while not check.done():
            await asyncio.sleep(0.005)
            worst, last = max(worst, time.monotonic() - last), time.monotonic()
        assert await check is RIGHT
        return worst

    assert asyncio.run(longest_pause()) < 0.15


def test_a_check_under_way_does_not_hold_up_the_end() -> None:
    users = {"alice": hashed(b"secret", 11)}

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Passwords(users).check("alice", b"wrong", ""), 0.01)

    start = time.monotonic()
    asyncio.run(give_up())
    assert time.monotonic() - start < 0.15
    time.sleep(0.2)  # the thread ends while the test still looks for its complaints
