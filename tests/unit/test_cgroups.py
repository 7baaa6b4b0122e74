"""Cgroup ids become names of units and containers, by walks that are few and bounded."""

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sockwatch.kernel import cgroups
from sockwatch.kernel.cgroups import UNIT_LENGTH, Mount, UnitResolver, find_mount, unit_of, walk

ID = "0123456789abcdef" * 4
OTHER_ID = "fedcba9876543210" * 4
UID = "12345678-9abc-def0-1234-56789abcdef0"
UID_ = UID.replace("-", "_")
STATIC_UID = UID.replace("-", "")
SHORT = ID[:12]
POD_SLICES = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"

PATHS = [
    ("/", ""),
    ("", ""),
    ("/init.scope", "init.scope"),
    ("/system.slice/nginx.service", "nginx.service"),
    ("system.slice/nginx.service", "nginx.service"),
    ("/system.slice", ""),
    ("/system.slice/nginx.service/workers/3", "nginx.service"),
    ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
    (
        "/system.slice/system-postgresql.slice/postgresql@15-main.service",
        "postgresql@15-main.service",
    ),
    (r"/system.slice/a\x2db.service", r"a\x2db.service"),
    ("/system.slice/dev-hugepages.mount", ""),
    ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-foo.service", "app-foo.service"),
    ("/user.slice/user-1000.slice/user@1000.service/init.scope", "user@1000.service"),
    ("/user.slice/user-1000.slice/user@1000.service", "user@1000.service"),
    (f"/system.slice/run-r{STATIC_UID}.scope", f"run-r{STATIC_UID}.scope"),
    # Docker, by both drivers, rootless, and as a parent of a systemd of its own
    (f"/system.slice/docker-{ID}.scope", f"docker-{SHORT}"),
    (f"/docker/{ID}", f"docker-{SHORT}"),
    (f"/system.slice/docker-{ID}.scope/init.scope", f"docker-{SHORT}"),
    (f"/docker/{ID}/system.slice/nginx.service", f"docker-{SHORT}"),
    (f"/user.slice/user-1.slice/user@1.service/user.slice/docker-{ID}.scope", f"docker-{SHORT}"),
    (f"/docker/{ID}/docker/{OTHER_ID}", f"docker-{OTHER_ID[:12]}"),
    (f"/{ID}", f"container-{SHORT}"),
    # podman
    (f"/machine.slice/libpod-{ID}.scope", f"libpod-{SHORT}"),
    (f"/machine.slice/libpod-{ID}.scope/container", f"libpod-{SHORT}"),
    (f"/machine.slice/libpod-conmon-{ID}.scope", f"libpod-conmon-{SHORT}"),
    (f"/libpod_parent/libpod-{ID}", f"libpod-{SHORT}"),
    # containerd and CRI-O without Kubernetes
    (f"/system.slice/cri-containerd-{ID}.scope", f"cri-containerd-{SHORT}"),
    (f"/system.slice/crio-{ID}.scope", f"crio-{SHORT}"),
    (f"/default/{ID}", f"default-{SHORT}"),
    # Kubernetes, by both drivers
    (f"/{POD_SLICES}/cri-containerd-{ID}.scope", f"pod-{UID}/{SHORT}"),
    (f"/{POD_SLICES}/crio-{ID}.scope", f"pod-{UID}/{SHORT}"),
    (f"/{POD_SLICES}/docker-{ID}.scope", f"pod-{UID}/{SHORT}"),
    (f"/{POD_SLICES}", f"pod-{UID}"),
    (f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope", f"pod-{UID}/{SHORT}"),
    (f"/kubepods/burstable/pod{UID}/{ID}", f"pod-{UID}/{SHORT}"),
    (f"/kubepods/pod{UID}/{ID}", f"pod-{UID}/{SHORT}"),
    (f"/kubepods/besteffort/pod{STATIC_UID}/{ID}", f"pod-{STATIC_UID}/{SHORT}"),
    (
        f"/system.slice/containerd.service/kubepods-besteffort-pod{UID_}.slice:cri-containerd:{ID}",
        f"pod-{UID}/{SHORT}",
    ),
    (f"/docker/{OTHER_ID}/kubelet/kubepods/pod{UID}/{ID}", f"pod-{UID}/{SHORT}"),
    (f"/{POD_SLICES}/cri-containerd-{ID}.scope/app.service", f"pod-{UID}/{SHORT}"),
    # machines
    ("/machine.slice/machine-web.scope", "machine-web.scope"),
    ("/machine.slice/machine-web.scope/payload/system.slice/nginx.service", "machine-web.scope"),
    ("/machine.slice/systemd-nspawn@web.service/payload/init.scope", "systemd-nspawn@web.service"),
    (r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt", r"machine-qemu\x2d1\x2dvm.scope"),
    ("/lxc.payload.web/system.slice/nginx.service", "lxc.payload.web"),
    # seen from a cgroup namespace
    ("/../../system.slice/nginx.service", "nginx.service"),
    (f"/../{ID}", f"container-{SHORT}"),
    ("/../..", ""),
    # nearly
    (f"/system.slice/docker-{ID[:-1]}.scope", f"docker-{ID[:-1]}.scope"),
    (f"/kubepods/pod{UID[:-1]}", ""),
    ("/a/.service/.scope", ""),
]


@pytest.mark.parametrize(("path", "unit"), PATHS)
def test_a_path_gives_the_name_people_know(path: str, unit: str) -> None:
    assert unit_of(path) == unit


def test_a_label_value_is_bounded_and_still_its_own() -> None:
    units = {unit_of(f"/system.slice/{'x' * 240}{n}.service") for n in range(3)}
    assert len(units) == 3
    assert {len(unit) for unit in units} == {UNIT_LENGTH}
    assert unit_of(f"/{'x' * (UNIT_LENGTH - 8)}.service").endswith("x.service")


def test_a_name_that_is_not_utf8_becomes_text() -> None:
    """As names of processes do."""
    assert unit_of(os.fsdecode(b"/system.slice/\xff.service")) == r"\xff.service"


PARTS = st.sampled_from(
    ["system.slice", "a.service", "b.scope", ID, f"docker-{ID}.scope", f"pod{UID}", "..", "", ":"]
)


@given(st.one_of(st.text(), st.lists(st.one_of(PARTS, st.text())).map("/".join)))
@example("pod" * 5000)
@example("-:" * 5000)
def test_any_path_gives_a_bounded_string(path: str) -> None:
    unit = unit_of(path)
    assert len(unit) <= UNIT_LENGTH
    unit.encode("utf-8")


UNIFIED = "25 22 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
VERSION_1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
OWN_AND_HOST = (
    "900 800 0:22 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
    "901 800 0:22 /../../.. /host/sys/fs/cgroup ro - cgroup2 cgroup rw\n"
)
PART_AND_WHOLE = (
    "50 22 0:22 /system.slice /srv/part rw - cgroup2 cgroup2 rw\n"
    r"51 22 0:22 / /srv/the\040whole rw master:1 propagate_from:2 - cgroup2 cgroup2 rw"
)


@pytest.mark.parametrize(
    ("mountinfo", "mount"),
    [
        (UNIFIED, Mount("/sys/fs/cgroup", "/")),
        (HYBRID, Mount("/sys/fs/cgroup/unified", "/")),
        (VERSION_1, None),
        ("", None),
        ("cgroup2\n - cgroup2\nnonsense - cgroup2 x\n", None),
        (OWN_AND_HOST, Mount("/host/sys/fs/cgroup", "/../../..")),
        (PART_AND_WHOLE, Mount("/srv/the whole", "/")),
    ],
)
def test_the_mount_that_shows_most_is_found(
    tmp_path: Path, mountinfo: str, mount: Mount | None
) -> None:
    path = tmp_path / "mountinfo"
    path.write_text(mountinfo)
    assert find_mount(path) == mount


def test_without_proc_there_is_no_mount_and_every_unit_is_unknown(tmp_path: Path) -> None:
    assert find_mount(tmp_path / "absent") is None
    assert UnitResolver(tmp_path / "absent").unit(7, 0.0) == ""


class Tree:
    """A folder that stands for a cgroup2 mount, and counts how often it is walked."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root / "cgroup"
        self.root.mkdir()
        self.mount = Mount(str(self.root), "/")
        self.mountinfo = root / "mountinfo"
        self.mountinfo.write_text(f"41 31 0:38 / {self.root} rw - cgroup2 cgroup2 rw\n")
        self.walks = 0
        monkeypatch.setattr(cgroups, "walk", self._walk)

    def make(self, path: str) -> int:
        """Make a cgroup and return its id."""
        folder = self.root / path
        folder.mkdir(parents=True)
        return folder.stat().st_ino

    def remove(self, path: str) -> None:
        # Not deleted, because other file systems give numbers away again; cgroupfs does not.
        (self.root / path).rename(self.root.parent / path.replace("/", "-"))

    def resolver(self) -> UnitResolver:
        return UnitResolver(self.mountinfo, refresh_after=10.0)

    def _walk(self, mount: Mount) -> list[tuple[int, str]]:
        self.walks += 1
        return list(walk(mount))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    return Tree(tmp_path, monkeypatch)


def test_one_walk_names_all(tree: Tree) -> None:
    ids = {tree.make(f"system.slice/app{n}.service"): f"app{n}.service" for n in range(20)}
    resolver = tree.resolver()
    assert {number: resolver.unit(number, 0.0) for number in ids} == ids
    assert tree.walks == 1


def test_a_socket_without_cgroup_costs_no_walk(tree: Tree) -> None:
    assert tree.resolver().unit(0, 0.0) == ""
    assert tree.walks == 0


def test_the_root_cgroup_is_no_unit(tree: Tree) -> None:
    assert tree.resolver().unit(tree.root.stat().st_ino, 0.0) == ""


def test_a_new_unit_is_found_at_the_next_walk_that_is_due(tree: Tree) -> None:
    resolver = tree.resolver()
    resolver.unit(tree.make("old.service"), 0.0)
    new = tree.make("new.service")
    assert [resolver.unit(new, now) for now in (1.0, 9.9)] == ["", ""]
    assert tree.walks == 1
    assert resolver.unit(new, 10.0) == "new.service"
    assert tree.walks == 2


def test_a_removed_cgroup_is_looked_for_once(tree: Tree) -> None:
    gone = tree.make("gone.service")
    tree.remove("gone.service")
    resolver = tree.resolver()
    assert {resolver.unit(gone, float(now)) for now in range(0, 3600, 5)} == {""}
    assert tree.walks == 1


def test_a_unit_seen_once_keeps_its_name_after_its_end(tree: Tree) -> None:
    leaker = tree.make("leaker.service")
    resolver = tree.resolver()
    assert resolver.unit(leaker, 0.0) == "leaker.service"
    tree.remove("leaker.service")
    assert resolver.unit(tree.make("next.service"), 20.0) == "next.service"
    assert resolver.unit(leaker, 20.0) == "leaker.service"
    assert resolver.unit(leaker, 1e9) == "leaker.service"
    assert tree.walks == 2


def test_what_is_remembered_of_removed_cgroups_is_bounded(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "GONE_LIMIT", 3)
    resolver = tree.resolver()
    for number in range(5):
        resolver.unit(10**15 + number, number * 10.0)
        resolver.unit(10**15, number * 10.0)  # asked for again and again, so kept
    walks = tree.walks
    assert [resolver.unit(10**15 + number, 1000.0) for number in (0, 3, 4)] == ["", "", ""]
    assert tree.walks == walks
    resolver.unit(10**15 + 1, 1000.0)
    assert tree.walks == walks + 1


def test_walks_are_rarer_where_there_are_very_many_cgroups(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "PAUSE_PER_DIRECTORY", 20.0)
    resolver = tree.resolver()
    resolver.unit(tree.make("one.service"), 0.0)  # with the root: two directories
    two = tree.make("two.service")
    assert resolver.unit(two, 39.0) == ""
    assert resolver.unit(two, 40.0) == "two.service"


def test_a_mount_that_shows_a_part_is_named_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "worker").mkdir()
    paths = [path for _, path in walk(Mount(str(tmp_path), "/system.slice/nginx.service"))]
    assert paths == ["/system.slice/nginx.service", "/system.slice/nginx.service/worker"]


def test_links_and_files_are_not_followed(tree: Tree) -> None:
    target = tree.make("real.service")
    (tree.root / "link.service").symlink_to(tree.root / "real.service")
    (tree.root / "loop").symlink_to(tree.root)
    (tree.root / "cgroup.procs").write_text("1\n")
    found = dict(walk(tree.mount))
    assert found == {tree.root.stat().st_ino: "", target: "/real.service"}


def test_a_walk_is_bounded_in_number_and_depth(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("a/b/c/d", "e", "f"):
        tree.make(path)
    assert len(list(walk(tree.mount, limit=3))) == 3
    monkeypatch.setattr(cgroups, "DEPTH_LIMIT", 3)
    assert {path for _, path in walk(tree.mount)} == {"", "/a", "/e", "/f", "/a/b"}


def test_directories_that_vanish_during_a_walk_are_left_out(tree: Tree) -> None:
    for path in ("a/b", "c/d"):
        tree.make(path)
    paths = []
    for _, path in walk(tree.mount):
        paths.append(path)
        if path == "":
            tree.remove("a")
    assert set(paths) - {"/a"} == {"", "/c", "/c/d"}


def test_a_mount_that_vanishes_shows_nothing(tmp_path: Path) -> None:
    assert list(walk(Mount(str(tmp_path / "absent"), "/"))) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 100))))
def test_no_order_of_questions_costs_more_than_one_walk_in_ten_seconds(
    questions: list[tuple[int, int]],
) -> None:
    walked: list[Mount] = []
    times: list[int] = []

    def nothing(mount: Mount) -> Iterator[tuple[int, str]]:
        walked.append(mount)
        return iter(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cgroups, "find_mount", lambda _: Mount("/absent", "/"))
        patch.setattr(cgroups, "walk", nothing)
        resolver = UnitResolver()
        for now, cgroup_id in sorted((now, cgroup_id) for cgroup_id, now in questions):
            assert resolver.unit(cgroup_id, float(now)) == ""
            times += [now] * (len(walked) - len(times))
    assert all(later - earlier >= 10 for earlier, later in pairwise(times))
