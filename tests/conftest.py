"""Settings shared by all tests, and the rule on skips.

On CI (the variable CI is set) or with ``--strict-skips`` a test may be skipped for two reasons
only, an absent ``../shared`` or a missing GPU. Any other skip fails the run.
"""

import os

import hypothesis
import pytest

ALLOWED_SKIPS = ("../shared", "GPU")

# A first example may compile a kernel, so time says nothing; the same examples on every run.
hypothesis.settings.register_profile("fdforce", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fdforce")


@pytest.fixture(scope="module")
def empty_figures():
    """Reports without the second that their figures take; tests/test_report.py draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fdforce.report.run_figures._svg", lambda *_: "<svg></svg>")
        yield


def pytest_addoption(parser):
    parser.addoption(
        "--strict-skips",
        action="store_true",
        help="fail when a test is skipped for a reason other than an absent ../shared or GPU",
    )


def strict_skips(config) -> bool:
    on_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return on_ci or config.getoption("--strict-skips")


def skips(config) -> list[tuple[str, str]]:
    """What was skipped, tests and whole modules: (test, reason)."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter else []
    return [(report.nodeid, skip_reason(report)) for report in reports]


def skip_reason(report) -> str:
    longrepr = report.longrepr  # (path, line, "Skipped: reason")
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ")


def refused_skips(config) -> list[tuple[str, str]]:
    return [
        (test, reason)
        for test, reason in skips(config)
        if not any(allowed in reason for allowed in ALLOWED_SKIPS)
    ]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    if strict_skips(session.config) and refused_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.write_line(f"skipped: {len(skips(config))}")
    if not strict_skips(config):
        return
    refused = refused_skips(config)
    if refused:
        terminalreporter.section("skips that fail this run", red=True)
        for test, reason in refused:
            terminalreporter.write_line(f"{test}: {reason}")
