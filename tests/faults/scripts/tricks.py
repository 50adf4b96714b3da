"""What training scripts do to the process that they run in, ours included.

Each trick is a generator of three parts: before torch is imported, in the middle of the training,
and after it. Nothing here knows of boundscope.
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
import time

TRICKS = {}
prepared = lambda model: model  # noqa: E731 - a trick may replace it


def trick(function):
    TRICKS[function.__name__.replace("_", "-")] = function
    return function


@trick
def nothing(given):
    yield
    yield


@trick
def exits_at_once(given):
    """Without any exit handler, from the middle of the training."""
    yield
    sys.stdout.flush()
    os._exit(5)


@trick
def becomes_another_program(given):
    yield
    sys.stdout.flush()
    os.execv("/bin/sh", ["sh", "-c", "echo another program; exit 6"])
    yield


@trick
def starts_itself_again(given):
    """The same process trains a second time from the start."""
    yield
    sys.stdout.flush()
    if "AGAIN" not in os.environ:
        os.environ["AGAIN"] = "1"
        script = os.path.join(os.path.dirname(__file__), "training.py")
        os.execv(sys.executable, [sys.executable, script, "--trick", "starts-itself-again"])
    yield


@trick
def goes_on_in_the_background(given):
    """The parent leaves at once, as a daemon's does; the child trains on and is waited for."""
    yield
    sys.stdout.flush()
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        os.read(reading, 1)  # until the child's end closes it
        os._exit(0)
    os.setsid()
    os.close(reading)
    yield


@trick
def forks_many_workers(given):
    """Loader after loader, each with many workers: 24 processes more than there were."""
    given.workers = 2
    yield
    import torch
    from torch.utils.data import DataLoader

    for _ in range(3):
        print(sum(batch.sum().item() for batch in DataLoader(torch.ones(24, 2), num_workers=8)))
    yield


@trick
def handles_signals_itself(given):
    """Handlers of its own for what it is sent and for an alarm every 20 ms."""
    caught = []

    def ring(number, frame):
        caught.append(number)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM, signal.SIGINT):
        signal.signal(number, ring)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.kill(os.getpid(), number)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(sorted(set(caught)), caught.count(signal.SIGALRM) >= 10)


@trick
def raises_from_a_signal_handler(given):
    """As timeouts do: an alarm's handler raises wherever the training happens to be."""

    class Timeout(Exception):
        pass

    raised, seen = [], []

    def ring(number, frame):
        raised.append(1)
        raise Timeout

    yield
    import torch
    from torch.utils.data import DataLoader

    random_state = torch.random.get_rng_state()  # each loader draws a seed: how many is chance
    model, loader = torch.nn.Linear(2, 2), DataLoader(torch.ones(4, 2))
    signal.signal(signal.SIGALRM, ring)
    for turn in range(300):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.00001 * turn)
            until = time.monotonic() + 1
            while time.monotonic() < until:
                for batch in loader:
                    model(batch).sum().backward()
        except Timeout:
            seen.append(1)
    torch.random.set_rng_state(random_state)
    # One that the interpreter drops in a callback is raised again: the handler may run twice.
    print(len(seen), len(raised) >= len(seen))
    yield


@trick
def traces_every_line(given):
    """A debugger's or coverage's hook, that counts the lines of the script's own file."""
    lines = []
    own = os.path.join(os.path.dirname(__file__), "training.py")

    def local(frame, event, argument):
        lines.append(frame.f_lineno)
        return local

    def trace(frame, event, argument):
        return local if frame.f_code.co_filename == own else None

    yield
    threading.settrace(trace)
    sys.settrace(trace)
    yield
    sys.settrace(None)
    print(len(lines), sum(lines))


@trick
def profiles_every_call(given):
    calls = []
    own = os.path.join(os.path.dirname(__file__), "training.py")

    def profile(frame, event, argument):
        if event == "call" and frame.f_code.co_filename == own:
            calls.append(frame.f_code.co_name)

    threading.setprofile(profile)
    sys.setprofile(profile)
    yield
    yield
    sys.setprofile(None)
    print(len(calls), sorted(set(calls)))


@trick
def counts_its_threads(given):
    yield
    print(threading.active_count(), [thread.name for thread in threading.enumerate()])
    yield
    print(threading.active_count(), [thread.name for thread in threading.enumerate()])


@trick
def hooks_exceptions(given):
    """Hooks of its own for errors, and one that it does not catch."""
    sys.excepthook = lambda kind, error, trace: print("mine", kind.__name__, error, flush=True)
    threading.excepthook = lambda given: print("thread", given.exc_type.__name__, flush=True)
    yield
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    raise ValueError("uncaught")
    yield


@trick
def closes_all_descriptors(given):
    """And opens files of its own, which get the numbers that were just closed."""
    yield
    os.closerange(3, 4096)
    files = [open(f"own-{index}", "wb", buffering=0) for index in range(24)]
    yield
    for file in files:
        file.write(b"own")
    print([os.path.getsize(f"own-{index}") for index in range(24)])


@trick
def goes_to_another_folder(given):
    yield
    os.makedirs("elsewhere", exist_ok=True)
    os.chdir("elsewhere")
    yield
    print(os.listdir("."))


@trick
def forgets_its_environment(given):
    os.environ.clear()
    yield
    os.environ.clear()
    yield
    print(sorted(os.environ))


@trick
def patches_torch_itself(given):
    yield
    import torch
    from torch.utils import data

    saved, original = [], torch.save
    torch.save = lambda *a, **k: (saved.append(1), original(*a, **k))[1]
    torch.save({"x": torch.ones(2)}, "x.pt")
    before = data.DataLoader.__iter__
    data.DataLoader.__iter__ = lambda self: (saved.append(2), before(self))[1]
    print(len(list(data.DataLoader(torch.ones(4, 2)))), saved, sorted(torch.load("x.pt")))
    data.DataLoader = type("DataLoader", (data.DataLoader,), {})
    yield
    print(torch.save.__name__, len(list(data.DataLoader(torch.ones(4, 2)))), saved)


@trick
def profiles_with_torch(given):
    """The script's own profiler runs from the first step to the last."""
    yield_part = {}
    global prepared

    def start(model):
        import torch

        yield_part["profile"] = torch.profiler.profile(record_shapes=True)
        yield_part["profile"].start()
        return model

    prepared = start
    yield
    yield
    yield_part["profile"].stop()
    names = {event.name() for event in yield_part["profile"].profiler.kineto_results.events()}
    print("aten::addmm" in names, any("boundscope" in name for name in names))


@trick
def profiles_for_a_while(given):
    """The script's own profiler starts in the middle, when others have been and gone."""
    import torch

    profile = torch.profiler.profile()
    yield
    profile.start()
    yield
    profile.stop()
    print(len(profile.profiler.kineto_results.events()) > 100)


@trick
def scripts_the_model(given):
    global prepared

    def script(model):
        import torch

        return torch.jit.script(model)

    prepared = script
    yield
    yield


@trick
def compiles_the_model(given):
    """With the `eager` backend: the graph is captured, and no compiler is needed."""
    global prepared

    def compiled(model):
        import torch

        return torch.compile(model, backend=os.environ.get("BACKEND", "eager"))

    prepared = compiled
    yield
    yield
    from torch._dynamo.utils import counters

    print(sorted(counters["stats"].items()), sum(counters["graph_break"].values()))


@trick
def imports_twice(given):
    """Torch is asked for by three threads at once, and a part of it loaded again."""
    import importlib

    threads = [threading.Thread(target=__import__, args=("torch",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield
    import torch

    importlib.reload(torch.utils.data.sampler)
    print(sys.modules["torch"] is torch)
    yield


@trick
def runs_out_of_memory(given):
    import resource

    yield
    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), -1))
    import torch

    try:
        torch.ones(1 << 30)
    except RuntimeError as error:
        print(type(error).__name__)
    bytearray(1 << 34)
    yield


@trick
def takes_all_memory(given):
    """Until the kernel ends it; sleeps a little first, so that the steps are written."""
    yield
    time.sleep(0.6)
    sys.stdout.flush()
    held = []
    while True:
        held.append(bytearray(os.urandom(1 << 20)) * 8)
    yield


@trick
def forks_children_that_leave_in_good_order(given):
    """After a while of training: each ends through all its exit handlers, threads stopped."""
    codes = []
    yield
    yield
    for code in (0, 7):
        sys.stdout.flush()
        child = os.fork()
        if not child:
            sys.exit(code)
        deadline = time.monotonic() + 60
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
            time.sleep(0.01)
        if not ended[0]:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
        codes.append(os.waitstatus_to_exitcode(ended[1]))
    print(codes)


@trick
def hangs_in_a_profiler_window(given):
    """One step hangs while somebody's profiler is on, of which the script knows nothing."""
    global prepared

    def hanging(model):
        import torch

        forward, once = model.forward, []

        def hang(batch):
            if torch.autograd.profiler._is_profiler_enabled and not once:
                once.append(time.sleep(1.5))
            return forward(batch)

        model.forward = hang
        return model

    prepared = hanging
    yield
    yield


def ends_in_a_profiler_window(end):
    """The model's forward calls `end` while a profiler is on, else at step 150."""
    global prepared

    def ending(model):
        import torch

        forward, calls = model.forward, []

        def look(batch):
            calls.append(1)
            if torch.autograd.profiler._is_profiler_enabled or len(calls) == 150:
                end()
            return forward(batch)

        model.forward = look
        return model

    prepared = ending


@trick
def leaves_in_a_profiler_window(given):
    """In good order, through every exit handler."""
    ends_in_a_profiler_window(lambda: sys.exit(4))
    yield
    yield


@trick
def dies_in_a_profiler_window(given):
    ends_in_a_profiler_window(lambda: os.kill(os.getpid(), signal.SIGKILL))
    yield
    yield


@trick
def hangs_in_a_step(given):
    """One step takes a hundred times as long as the others."""
    yield
    time.sleep(2.0)
    yield


@trick
def fails_at_exit(given):
    """Exit handlers of its own, before and after ours, one of which fails."""
    atexit.register(print, "first of all exit handlers", flush=True)
    yield

    def fail():
        raise ValueError("at exit")

    atexit.register(fail)
    yield
    sys.exit(3)


@trick
def starts_programs(given):
    """Programs of its own while it trains, Python among them."""
    yield
    for _ in range(5):
        code = "import sys; print(len(sys.meta_path) > 0, sys.argv)"
        command = [sys.executable, "-c", code, "a"]
        print(subprocess.run(command, capture_output=True, text=True).stdout, end="")
    yield


@trick
def waits_for_ever(given):
    yield
    print("waiting", flush=True)
    while True:
        time.sleep(0.05)
