"""Targets of a notifier: each mistake in them has its own words, and none shows a secret."""

import os

import pytest

from pyml.errors import BadArgument
from pyml.workers import messages, targets
from tests.receivers import SECRET, notify, table

HOOK = "https://ops.example.com/hook-s3cret"


def hook(**more):
    return table("ops", url=HOOK, secret=SECRET, **more)


def at(url, **more):
    return table("ops", url=url, **more)


WRONG = {
    "no TOML": ("[ops\n", "that is no TOML"),
    "nothing": ("", "no target is named"),
    "a key outside of a table": ('url = "https://x/hook-s3cret"\n', "url: it stands outside"),
    "a name with a capital": (hook().replace("ops", "Ops", 1), "[Ops]: a name is of a to z"),
    "no url": (table("ops", secret=SECRET), "[ops]: it has no url"),
    "a url that is none": (at("hook-s3cret", secret=SECRET), "url is no address"),
    "a port that is none": (at("https://x:s3cret/", secret=SECRET), "url is no address"),
    "no host": (at("https:///hook-s3cret", secret=SECRET), "url is no address"),
    "a password": (at("https://a:s3cret@x/", secret=SECRET), "holds a user or a password"),
    "no secret": (at(HOOK), "a webhook needs a secret"),
    "a secret that is no base64": (at(HOOK, secret="s3cret!"), "in base64"),
    "a short secret": (at(HOOK, secret="czNjcmV0"), "24 to 64 bytes"),
    "a secret beside Apprise": (at("mqtt://x/s3cret", secret=SECRET), "signs webhooks alone"),
    "what Apprise does not know": (at("pigeon://s3cret"), "Apprise cannot send"),
    "no check of certificates": (at("mqtts://x/s3cret?verify=no"), "turns off the check"),
    "redirects": (at("jsons://x/s3cret?redirect=yes"), "lets redirects be followed"),
    "a severity": (hook(severity="fatal"), "warning or critical"),
    "kinds that are no list": (hook(kinds="level"), "kinds has to be"),
    "no kind at all": (hook(kinds=[]), "kinds has to be"),
    "a device that is a number": (hook(devices=[7]), "devices has to be"),
    "a key that is none": (hook(pasword="s3cret"), "no key pasword"),
    "a link to nowhere": (hook(link="ftp://x"), "link has to be"),
    "a link with another place": (
        hook(link="https://x/{target.key}"),
        "{device_id}, {device_uuid}",
    ),
    "a fleet's link with a place": (hook(fleet_link="https://x/{device_id}"), "fleet_link has"),
}


@pytest.mark.parametrize("case", WRONG)
def test_each_mistake_has_its_own_words_without_a_secret(case):
    source, words = WRONG[case]
    found, wrong = targets.read(source)
    assert found == []
    assert len(wrong) == 1, wrong
    assert words in wrong[0]
    assert "s3cret" not in wrong[0]


def test_all_that_is_wrong_is_said_at_once():
    source = table("ops", url=HOOK, severity="fatal") + table("mail", url=7)
    assert len(targets.read(source)[1]) == 3


def test_what_is_right_is_read():
    source = hook(severity="critical", kinds=["stuck"], devices=["b-*"])
    [target], wrong = targets.read(source)
    assert wrong == []
    assert target.row() == {
        "target": "ops",
        "severity": "critical",
        "kinds": ("stuck",),
        "devices": ("b-*",),
    }
    assert "s3cret" not in repr(target)


def test_no_part_of_an_address_is_left_in_words():
    said = "cannot POST /hook-s3cret?key=t0ken to us3r:s3cret at br0ker"
    hooked = targets.Target("ops", f"{HOOK}?key=t0ken").redacted(said)
    assert hooked == "cannot POST … to us3r:s3cret at br0ker"
    broker = targets.Target("ops", "mqtt://us3r:s3cret@br0ker/a/b?key=t0ken").redacted(said)
    assert not [piece for piece in ("us3r", "s3cret", "br0ker", "t0ken") if piece in broker]


def read(file, environment=None):
    return targets.text(file, environment or {})


def test_a_file_that_others_may_read_is_refused(tmp_path):
    file = tmp_path / "targets.toml"
    file.write_text(hook())
    for mode in (0o640, 0o604, 0o620, 0o660):
        file.chmod(mode)
        with pytest.raises(BadArgument, match="others than its owner") as caught:
            read(file)
        assert caught.value.hint == f"chmod 600 {file}"
    file.chmod(0o600)
    assert "[ops]" in read(file)


def test_a_file_of_another_user_is_refused(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    file = tmp_path / "targets.toml"
    file.write_text("")
    file.chmod(0o600)
    os.chown(file, 65534, 65534)
    with pytest.raises(BadArgument, match="belongs to another user"):
        read(file)


def test_targets_come_from_one_place(tmp_path):
    for file, environment in ((None, {}), (tmp_path, {targets.TEXT: "[ops]"})):
        with pytest.raises(BadArgument, match="come from --targets or from PYML_TARGETS"):
            read(file, environment)
    assert read(None, {targets.TEXT: "[ops]"}) == "[ops]"


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(BadArgument, match=r"cannot read .*: No such file or directory"):
        read(tmp_path / "none.toml")
    file = tmp_path / "latin.toml"
    file.write_bytes(b"# caf\xe9")
    file.chmod(0o600)
    with pytest.raises(BadArgument, match="not in UTF-8"):
        read(file)


def test_the_command_says_all_of_it_and_ends():
    ran = notify(table("ops", url=HOOK) + table("mail", url="nowhere"))
    assert ran.returncode == 1
    assert [line[:6] for line in ran.stderr.splitlines()] == ["[ops]:", "[mail]"]
    ran = notify(None)
    assert (ran.returncode, "hint: python3 -m pyml.workers.notify" in ran.stderr) == (1, True)
    ran = notify(hook(), "--test", "mail")
    assert ran.stderr == "there is no target mail; the targets are ops\n"


TOLD = {
    "event": "opened",
    "event_id": 3,
    "incident_id": 7,
    "device_uuid": "u",
    "device_id": "b/7",
    "device_name": "boiler\r\nBcc: all",
    "kind": "level",
    "leading_metric": "temperature",
    "severity": "critical",
    "started_at": "2026-11-29T11:00:00+01:00",
    "ended_at": "2026-11-29T11:30:00+01:00",
    "summary": "temperature has been at 61 °C",
}
MANY = {**TOLD, "incident_id": None, "devices": 500, "fleet": 520, "incident_ids": list(range(500))}


def test_a_message_is_plain_words():
    target = targets.Target("ops", HOOK, link="https://x/{device_id}", fleet_link="https://x/")
    told = messages.message(target, TOLD)
    assert told.title == "boiler Bcc: all: temperature level (critical)"
    assert told.body == (
        "temperature has been at 61 °C\nIncident 7, since 2026-11-29 10:00 UTC.\nhttps://x/b%2F7"
    )
    many = messages.message(target, MANY)
    assert many.title == "500 of 520 devices: temperature level (critical)"
    assert many.body.splitlines()[1:] == [
        "Incident 0, 1, 2, 3, 4 …, since 2026-11-29 10:00 UTC.",
        "https://x/",
    ]


@pytest.mark.parametrize(
    ("more", "outcome"),
    [
        ({"why": "over"}, "over"),
        ({"why": "became usual"}, "has lasted for three days and counts as usual now"),
        ({"why": "a person", "resolved_by": "anna"}, "resolved by anna"),
        ({"why": "joined", "part_of": 6}, "is part of incident 6"),
        ({"why": "retired"}, "the device is retired"),
    ],
)
def test_how_it_ended_is_in_the_title(more, outcome):
    told = messages.message(targets.Target("ops", HOOK), {**TOLD, "event": "resolved", **more})
    assert told.title == f"boiler Bcc: all: temperature level: {outcome}"
    assert "$" not in told.body


def test_every_event_has_its_words():
    for event in ("escalated", "acknowledged", "stalled", "resumed", "test"):
        more = {"acknowledged_by": "anna", "last_scan_at": TOLD["started_at"], "scan_every": 300.0}
        told = messages.message(targets.Target("ops", HOOK), {**TOLD, **more, "event": event})
        assert told.title
        assert "$" not in told.title + told.body, told
