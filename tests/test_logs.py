import json
from pathlib import Path

from biprop.runs import logs
from biprop.runs.logs import RunLog


def test_metrics_are_one_json_object_a_line(tmp_path: Path) -> None:
    with RunLog(tmp_path) as run_log:
        run_log.epoch(1, {"loss": 0.5})
        run_log.epoch(2, {"loss": 0.25})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_what_is_no_line_of_metrics_goes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rubbish = [
        b"\0\0\0\n",
        b"[1]\n",
        b'{"epoch": "2"}\n',
        b"\xff\xfe\n",
        b'{"epo\n',
        b"[" * 9999 + b"\n",
        b'{"epoch": 2',
    ]
    path.write_bytes(b'{"epoch": 1, "a": NaN}\n' + b"".join(rubbish))
    logs.forget_after(tmp_path, 5)
    assert path.read_text() == '{"epoch": 1, "a": NaN}\n'
    logs.forget_after(tmp_path, 0)
    assert path.read_text() == ""
