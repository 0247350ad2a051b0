from vae_exp.benchmark.stopwatch import Stopwatch


def test_nested_phases_share_out_every_second():
    moments = iter([2.0, 5.0, 6.0, 7.5, 8.0, 11.0, 20.0])
    stopwatch = Stopwatch(1.0, lambda: next(moments))
    stopwatch.charge("start")  # 1 s until 2
    with stopwatch.phase("outer"):  # opened at 5: 3 s of the rest
        with stopwatch.phase("inner"):  # at 6: 1 s of outer
            pass  # at 7.5: 1.5 s
        stopwatch.timed(lambda: None, "inner")()  # 8 to 11
    assert stopwatch.seconds == {"start": 1.0, "rest": 3.0, "outer": 1.0 + 0.5 + 9.0, "inner": 1.5 + 3.0}
    assert sum(stopwatch.seconds.values()) == 20.0 - 1.0


def test_a_phase_ends_with_an_error_too():
    moments = iter([1.0, 2.0, 5.0])
    stopwatch = Stopwatch(0.0, lambda: next(moments))
    try:
        with stopwatch.phase("failing"):
            raise OSError
    except OSError:
        stopwatch.charge()
    assert stopwatch.seconds == {"rest": 1.0 + 3.0, "failing": 1.0}
