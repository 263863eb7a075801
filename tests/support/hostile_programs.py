"""200 programs that attack the machine, or pretend to pass their tests. None of them solves its problem honestly.

TESTS are the tests of a function `square`. Programs of `NUMPY` are judged by NUMPY_TESTS, which compare with
numpy.allclose as the data sets of EvalPlus do.
"""

from __future__ import annotations

TESTS = "import math\ndef check(candidate):\n    assert candidate(2) == 4\n    assert math.isclose(candidate(3), 9)\n"
TESTS += "    assert all(candidate(n) == n * n for n in range(4))\ncheck(square)\n"
NUMPY_TESTS = (
    "import numpy as np\ndef check(candidate):\n    for x in (2, 3, 5):\n        found = candidate([x])\n"
    "        assert found == x * x or np.allclose(found, x * x, rtol=1e-07, atol=1e-6)\ncheck(square)\n"
)
RIGHT = "def square(x):\n    return x * x\n"
NOTHING = "def square(x):\n    return None\n"
WRONG = "def square(x):\n    return x + x if x < 3 else 0\n"
EQUAL = "class Equal:\n    def __eq__(self, other):\n        return True\n    def __float__(self):\n        return 9.0\n"
EACH_PIPE = "import os\nfor n in range(32):\n    try:\n        {}\n    except OSError:\n        pass\n"
MACHINE = {
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "fork in the function": "import os\ndef square(x):\n    os.fork()\n    return x * x",
    "reads the users": "open('/etc/passwd').read()\n" + RIGHT,
    "reads by descriptor": "import os\nos.read(os.open('/etc/passwd', os.O_RDONLY), 9)\n" + RIGHT,
    "lists a folder": "import os\nos.listdir('/')\n" + RIGHT,
    "reads its parent": "import os\nopen(f'/proc/{os.getppid()}/environ').read()\n" + RIGHT,
    "overwrites a file": "open('{canary}', 'w').write('x')\n" + RIGHT,
    "removes a file": "import os\nos.remove('{canary}')\n" + RIGHT,
    "renames a file": "import os\nos.rename('{canary}', 'here')\n" + RIGHT,
    "new file elsewhere": "open('{outside}/new', 'w')\n" + RIGHT,
    "link to a file": "import os\nos.symlink('{canary}', 'link')\n" + RIGHT,
    "connects": "import socket\nsocket.create_connection(('127.0.0.1', 9))\n" + RIGHT,
    "listens": "import socket\nsocket.create_server(('127.0.0.1', 0))\n" + RIGHT,
    "starts a program": "import subprocess\nsubprocess.run(['/bin/echo'])\n" + RIGHT,
    "shell": "import os\nif os.system('true') != 0:\n    raise OSError\n" + RIGHT,
    "kills its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n" + RIGHT,
    "kills the group of its parent": "import os\nos.killpg(os.getpgid(os.getppid()), 9)\n" + RIGHT,
    "traces": "import ctypes\nassert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0\n" + RIGHT,
    "raises its limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n" + RIGHT,
    "thread": "import threading\nthreading.Thread(target=print).start()\n" + RIGHT,
    "endless": "while True:\n    pass",
    "endless, ignores the signal": "import signal\nsignal.signal(24, signal.SIG_IGN)\nwhile True:\n    pass",
    "catches all": "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass",
    "gigabytes of output": "while True:\n    print('x' * 10 ** 6)",
    "output, error caught": "try:\n    print('x' * 10 ** 7)\nexcept OSError:\n    pass\n" + RIGHT,
    "output below Python": "import os\nfor n in range(32):\n    try:\n        os.write(n, b'x' * 10 ** 5)\n"
    "    except OSError:\n        pass\n" + RIGHT,
    "memory": "held = [bytearray(10 ** 8) for _ in range(1000)]\n" + RIGHT,
    "memory in one piece": "held = 'x' * 10 ** 11\n" + RIGHT,
    "fills the disk": "for n in range(10 ** 4):\n    open(str(n), 'w').write('x' * 60000)\n" + RIGHT,
    "a large integer": "held = 10 ** 10 ** 9\n" + RIGHT,
    "recursion in C": "held = []\nfor _ in range(10 ** 6):\n    held = [held]\nrepr(held)\n" + RIGHT,
}
EXITS = {
    "os._exit(0)": "import os\nos._exit(0)",
    "os._exit(0) in the function": "import os\ndef square(x):\n    os._exit(0)",
    "sys.exit(0)": "import sys\nsys.exit(0)",
    "sys.exit(0) in the function": "import sys\ndef square(x):\n    sys.exit(0)",
    "raise SystemExit": "raise SystemExit(0)",
    "abort": "import os\nos.abort()",
    "KeyboardInterrupt": "def square(x):\n    raise KeyboardInterrupt",
    "at exit": "import atexit, os\natexit.register(os._exit, 0)\n" + NOTHING,
}
FORGED = {
    "prints passed": "print('passed')\n" + NOTHING,
    "writes passed to each pipe": "import os\nfor n in range(32):\n    try:\n        os.write(n, b'a\\0passed\\0\\0')\n"
    "    except OSError:\n        pass\nos._exit(0)",
    "writes to each pipe in the function": "import os\ndef square(x):\n    for n in range(32):\n        try:\n"
    "            os.write(n, b'seccomp\\0passed\\0\\0')\n        except OSError:\n            pass\n    os._exit(0)",
    "reads the token from each pipe": "import os\ngot = b''\nfor n in range(32):\n    try:\n        got += os.read(n, 99)\n"
    "    except OSError:\n        pass\nfor n in range(32):\n    try:\n        os.write(n, b'a\\0' + got + b'\\0\\0')\n"
    "    except OSError:\n        pass\n" + NOTHING,
    "own check": "def check(candidate):\n    pass\n" + NOTHING,
    "replaces check in the function": "def square(x):\n    globals()['check'] = print\n    return 0",
    "own AssertionError": "import builtins\nclass AssertionError(BaseException):\n    pass\n"
    "builtins.AssertionError = AssertionError\n" + NOTHING,
    "own all": "import builtins\nbuiltins.all = lambda _: True\ndef square(x):\n    return (x == 2) * 4 + (x == 3) * 9",
    "own range": "range = lambda _: []\n__builtins__['range'] = range\n"
    "def square(x):\n    return (x == 2) * 4 + (x == 3) * 9",
    "own exec": "import builtins\nbuiltins.exec = lambda *_: None\n" + NOTHING,
    "own isclose": "import math\nmath.isclose = lambda *_: True\ndef square(x):\n    return x + x if x < 3 else 0",
    "own isclose in the function": "import math\ndef square(x):\n    math.isclose = lambda *_: True\n    return x + x if x < 3 else 0",
    "own module math": "import sys\nclass Fake:\n    isclose = staticmethod(lambda *_: True)\nsys.modules['math'] = Fake\n"
    "def square(x):\n    return x + x if x < 3 else 0",
    "own import": "import builtins\nbuiltins.__import__ = lambda *_: None\n" + NOTHING,
    "equal to everything": EQUAL + "def square(x):\n    return Equal()",
    "equal number": "class Equal(int):\n    def __eq__(self, other):\n        return True\n    def __float__(self):\n"
    "        return 9.0\ndef square(x):\n    return Equal(x) if x != 3 else 9",
    "equal class behind a metaclass": "class Kind(type):\n    def __hash__(cls):\n        return hash(int)\n"
    "    def __eq__(cls, other):\n        return True\n    def __getattribute__(cls, name):\n        return {}\n"
    "class Equal(metaclass=Kind):\n    def __eq__(self, other):\n        return True\n    def __float__(self):\n"
    "        return 9.0\ndef square(x):\n    return Equal()",
    "frames": "import sys\ndef square(x):\n    frame = sys._getframe()\n    while frame:\n"
    "        if 'n' in frame.f_locals:\n            return frame.f_locals['n'] ** 2\n        frame = frame.f_back",
    "frames of a traceback": "def square(x):\n    try:\n        1 / 0\n    except ZeroDivisionError as error:\n"
    "        frame = error.__traceback__.tb_frame\n    while frame:\n        if 'token' in frame.f_locals:\n"
    "            return 4\n        frame = frame.f_back\n    return 0",
    "frames of a generator": "def square(x):\n    made = (n for n in [1])\n    return made.gi_frame.f_back",
    "frames by the collector": "import gc\ndef square(x):\n    return [held for held in gc.get_objects()] and 0",
    "trace function": "import sys\nsys.settrace(lambda *_: None)\n" + RIGHT,
    "profile function": "import sys\nsys.setprofile(lambda *_: None)\n" + RIGHT,
    "audit hook": "import sys\nseen = []\nsys.addaudithook(lambda *event: seen.append(event))\n"
    "def square(x):\n    return seen[0] and x * x",
    "raw memory": "import ctypes\nctypes.string_at(id(0), 9)\n" + RIGHT,
    "globals of the stream": "import sys\nnames = type(sys.stdout).write.__globals__\nfor name in list(names):\n"
    "    names[name] = lambda *_: 'passed'\n" + NOTHING,
    "stream that returns fields": "import sys\ntype(sys.stdout).getvalue = lambda *_: 'a\\0passed\\0\\0'\n"
    + NOTHING,
    "own os.write": "import os\nos.write = lambda *_: 0\nos._exit = lambda *_: None\n" + NOTHING,
    "module of the tests": "import sys\nsys.modules['__main__'].check = print\n" + NOTHING,
    "says that it has passed": "raise AssertionError('passed')",
    "returns a generator": "def square(x):\n    yield x * x",
}


def _then_right(lines: str) -> str:
    """Return a program that attacks, and solves the problem if nothing refuses the attack."""
    return f"{lines}\n{RIGHT}"


MACHINE |= {
    name: _then_right(lines)
    for name, lines in {
        # files
        "new folder elsewhere": "import os\nos.mkdir('{outside}/new')",
        "hard link": "import os\nos.link('{canary}', 'link')",
        "truncates a file": "import os\nos.truncate('{canary}', 0)",
        "permissions of a file": "import os\nos.chmod('{canary}', 0)",
        "owner of a file": "import os\nos.chown('{canary}', 0, 0)",
        "time of a file": "import os\nos.utime('{canary}', (0, 0))",
        "replaces a file": "import os\nopen('new', 'w').write('x')\nos.replace('new', '{canary}')",
        "pathlib": "import pathlib\npathlib.Path('{canary}').write_text('x')",
        "shutil copies": "import shutil\nshutil.copy('{canary}', '{outside}/copy')",
        "shutil removes": "import shutil\nshutil.rmtree('{outside}')",
        "temporary file": "import tempfile\ntempfile.NamedTemporaryFile(dir='{outside}', delete=False)",
        "a database": "import sqlite3\nsqlite3.connect('{outside}/new').execute('create table a(b)')",
        "a shelf": "import shelve\nshelve.open('{outside}/new')",
        "an archive": "import zipfile\nzipfile.ZipFile('{outside}/new', 'w').writestr('a', 'b')",
        "a log file": "import logging\nlogging.FileHandler('{outside}/new')",
        "opens by io": "import io\nio.FileIO('{canary}', 'w')",
        "opens by codecs": "import codecs\ncodecs.open('{canary}', 'w')",
        "opens code": "import io\nio.open_code('{canary}')",
        "runs a file": "import runpy\nrunpy.run_path('{canary}')",
        "imports from elsewhere": "import sys\nopen('{outside}/new.py', 'w').write('')\nsys.path.insert(0, '{outside}')\nimport new",
        "shared memory": "from multiprocessing import shared_memory\nshared_memory.SharedMemory(create=True, size=9)",
        "/dev/shm": "open('/dev/shm/runner_attack', 'w').write('x')",
        "/dev/tty": "open('/dev/tty', 'w').write('x')",
        "/dev/mem": "open('/dev/mem', 'rb').read(1)",
        "/proc/self/mem": "open('/proc/self/mem', 'r+b').read(1)",
        "/proc/self/maps": "open('/proc/self/maps').read()",
        "/proc/self/environ": "open('/proc/self/environ').read()",
        "/proc/self/fd": "import os\nos.listdir('/proc/self/fd')",
        "/proc/1": "open('/proc/1/cmdline').read()",
        "/proc/sys": "open('/proc/sys/kernel/hostname', 'w').write('x')",
        "/sys": "import os\nos.listdir('/sys')",
        "/etc/shadow": "open('/etc/shadow').read()",
        "keys of the user": "import os\nos.listdir(os.path.expanduser('~root/.ssh'))",
        "whether a file exists": "import os\nos.stat('/etc/passwd')",
        "walks the folders": "import os\nassert [*os.walk('/')]",
        "pattern of names": "import glob\nassert glob.glob('/*')",
        "another folder": "import os\nos.chdir('/')",
        "root folder": "import os\nos.chroot('.')",
        "named pipe": "import os\nos.mkfifo('pipe')",
        "device": "import os\nos.mknod('device')",
        "its own folder": "import os\nos.mkdir('new')",
        "a file without a name": "import os\nos.write(os.memfd_create('x'), b'x')",
        "writes elsewhere by /proc": "import os\nopen(f'/proc/{os.getppid()}/fd/1', 'w').write('x')",
        "reads the sandbox": "import sys\nopen(sys.modules['__main__'].__spec__.origin).read()",
        # processes
        "exec": "import os\nos.execv('/bin/true', ['true'])",
        "spawn": "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "spawnl": "import os\nassert os.spawnl(os.P_WAIT, '/bin/true', 'true') == 0",
        "popen": "import os\nassert os.popen('echo a').read() == 'a\\n'",
        "forkpty": "import os\nos.forkpty()",
        "openpty": "import pty\npty.openpty()",
        "multiprocessing": "import multiprocessing\nmultiprocessing.Process(target=print).start()",
        "process pool": "from concurrent.futures import ProcessPoolExecutor\nProcessPoolExecutor(1).submit(print).result()",
        "thread pool": "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor(1).submit(print).result()",
        "thread bomb": "import _thread, time\nwhile True:\n    _thread.start_new_thread(time.sleep, (9,))",
        "orphan": "import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()",
        "pickle of a shell": "import os, pickle\nassert pickle.loads(b'cposix\\nsystem\\n(Vtrue\\ntR.') == 0",
        # the network
        "unix socket": "import socket\nsocket.socket(socket.AF_UNIX)",
        "abstract socket": "import socket\nsocket.socket(socket.AF_UNIX).bind('\\0attack')",
        "udp": "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "ipv6": "import socket\nsocket.socket(socket.AF_INET6)",
        "raw socket": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)",
        "packet socket": "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "netlink": "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "vsock": "import socket\nsocket.socket(socket.AF_VSOCK)",
        "socket pair": "import socket\nsocket.socketpair()",
        "name server": "import socket\nsocket.getaddrinfo('localhost', 80, type=socket.SOCK_STREAM)\nsocket.socket()",
        "http": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')",
        "event loop": "import asyncio\nasyncio.run(asyncio.sleep(0))",
        # signals and rights
        "signal to all": "import os\nos.kill(-1, 9)",
        "signal to its group, 0": "import os\nos.kill(0, 0)",
        "signal to itself": "import signal\nsignal.raise_signal(signal.SIGSTOP)",
        "alarm": "import signal\nsignal.alarm(9)\nassert signal.alarm(0) == 9",
        "timer": "import signal\nsignal.setitimer(signal.ITIMER_REAL, 1)",
        "handler of a signal": "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "file descriptor of a process": "import os\nos.pidfd_open(os.getppid())",
        "user": "import os\nos.setuid(0)",
        "group": "import os\nos.setgid(0)",
        "groups": "import os\nos.setgroups([0])",
        "session": "import os\nos.setsid()",
        "priority": "import os\nos.nice(-1)",
        "cores": "import os\nos.sched_setaffinity(0, {0})",
        "scheduler": "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))",
        "limit of processes": "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (9, 9))",
        "limit of its parent": "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
        "ctypes by its classes": "import ctypes\nfrom subprocess import sys\n"
        "found = [c for c in type.mro(type(sys))[-1].__subclasses__() if c.__name__ == 'CDLL']\n"
        "found[0].__init__.__globals__['memmove']",
        # memory and time
        "mapped memory": "import mmap\nmmap.mmap(-1, 10 ** 11)",
        "memory in a list": "held = []\nwhile True:\n    held.append([0] * 10 ** 6)",
        "memory in a dictionary": "held = {n: str(n) * 1000 for n in range(10 ** 8)}",
        "memory in digits": "held = 1 << 10 ** 11",
        "memory in lines": "import zlib\nheld = zlib.decompress(zlib.compress(bytes(10 ** 9)))",
        "a regular expression": "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
        "a long sum": "sum(range(10 ** 14))",
        "writes to stderr forever": "import sys\nwhile True:\n    sys.stderr.write('x' * 10 ** 6)",
        "writes to descriptor 1 forever": "import os\nwhile True:\n    os.write(1, b'x' * 10 ** 6)",
        "a deep expression": "eval('-' * 10 ** 6 + '1')",
        "deep brackets": "compile('(' * 10 ** 6, 'a', 'eval')",
        "abort by C": "import faulthandler\nfaulthandler._fatal_error_c_thread()",
        "a long error": "raise ValueError('x' * 10 ** 8)",
        "an error with NUL": "raise ValueError('a\\0passed\\0\\0\\udcff')",
        "another handler of wrong characters": "import codecs\ncodecs.register_error('replace', lambda e: ('\\0', e.end))\n"
        "raise ValueError('\\udcff')",
    }.items()
}
# stopped by the clock
WAITING = {
    "sleeps": "import time\ntime.sleep(10 ** 6)",
    "sleeps in the function": "import time\ndef square(x):\n    time.sleep(10 ** 6)",
    "closes all and sleeps": EACH_PIPE.format("os.close(n)") + "import time\ntime.sleep(10 ** 6)",
    "waits for a lock": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    "waits for nothing": "import select\nselect.select([], [], [])",
    "short sleeps": "import time\nwhile True:\n    time.sleep(0.01)",
}
EXITS |= {
    "closes all and ends": EACH_PIPE.format("os.close(n)") + "os._exit(0)",
    "closes all": EACH_PIPE.format("os.close(n)") + RIGHT,
    "exit in a generator": "def square(x):\n    try:\n        yield x\n    finally:\n        raise SystemExit(0)",
    "GeneratorExit": "raise GeneratorExit",
    "StopIteration": "def square(x):\n    raise StopIteration(x * x)",
    "quit": "quit()",
    "interrupts the main part": "import _thread\n_thread.interrupt_main()\n" + NOTHING,
    "exit at the end of the process": "import weakref\nclass A:\n    pass\nweakref.finalize(A, print, 'passed')\n"
    + NOTHING,
    "error of an object that is deleted": "class A:\n    def __del__(self):\n        raise SystemExit(0)\nA()\n"
    + NOTHING,
}
_CLOSE = "import math\ndef fake(*_):\n    math.isclose = lambda *_: True\n"
_WALK = "    while frame:\n        if 'token' in frame.f_locals:\n            token = frame.f_locals['token']\n            "
_WALK += EACH_PIPE.format("os.write(n, b'a\\0' + token.encode() + b'\\0\\0')").replace("\n", "\n            ")
_WALK += "os._exit(0)\n        frame = frame.f_back\n"
FORGED |= {
    "frames in a handler of a signal": f"import os, signal\ndef handler(_, frame):\n{_WALK}"
    "signal.signal(signal.SIGXCPU, handler)\nwhile True:\n    pass",
    "frames of inspect": f"import inspect, os\ndef square(x):\n    frame = inspect.currentframe()\n{_WALK}",
    "stack of inspect": "import inspect\ndef square(x):\n    return inspect.stack()[1].frame.f_locals['n'] ** 2",
    "stack of traceback": "import traceback\ndef square(x):\n    return [*traceback.walk_stack(None)][0][0].f_back",
    "frames by a format": "def square(x):\n    try:\n        1 / 0\n    except ZeroDivisionError as error:\n"
    "        return '{0.__traceback__.tb_frame}'.format(error)",
    "frames by attrgetter": "import operator\ndef square(x):\n    try:\n        1 / 0\n    except ZeroDivisionError as error:\n"
    "        return operator.attrgetter('__traceback__.tb_frame.f_back')(error)",
    "frames by a descriptor": "def square(x):\n    try:\n        1 / 0\n    except ZeroDivisionError as error:\n"
    "        return type(error.__traceback__).__dict__['tb_frame'].__get__(error.__traceback__)",
    "frames of a coroutine": "async def made():\n    pass\ndef square(x):\n    return made().cr_frame.f_back",
    "frames of an asynchronous generator": "async def made():\n    yield\ndef square(x):\n    return made().ag_frame.f_back",
    "a debugger": "import bdb\nbdb.Bdb().set_trace()\n" + RIGHT,
    "a profiler": "import cProfile\ncProfile.Profile().enable()\n" + RIGHT,
    "trace of threads": "import sys, threading\nthreading.settrace(print)\nsys.settrace(print)\n" + RIGHT,
    "other code": "def f():\n    pass\nf.__code__ = f.__code__.replace(co_consts=(1,))\n" + RIGHT,
    "stored code": "import marshal\nmarshal.loads(marshal.dumps(compile('1', 'a', 'eval')))\n" + RIGHT,
    "objects that refer": "import gc\ndef square(x):\n    return gc.get_referrers(x)",
    "equal by mock": "from unittest.mock import ANY\ndef square(x):\n    return ANY if x != 3 else 9",
    "equal by MagicMock": "from unittest.mock import MagicMock\ndef square(x):\n    made = MagicMock()\n"
    "    made.__eq__.return_value = True\n    made.__float__.return_value = 9.0\n    return made",
    "equal by test.support": "from test.support import ALWAYS_EQ\ndef square(x):\n    return ALWAYS_EQ if x != 3 else 9",
    "equal by a proxy": EQUAL
    + "import weakref\nheld = Equal()\ndef square(x):\n    return weakref.proxy(held)",
    "equal by a view of a mapping": "import types\nclass Equal(dict):\n    def __eq__(self, other):\n        return True\n"
    "def square(x):\n    return types.MappingProxyType(Equal()) if x != 3 else 9",
    "equal by UserList": EQUAL + "import collections\ndef square(x):\n    made = collections.UserList()\n"
    "    made.data = Equal()\n    return made if x != 3 else 9",
    "equal by a fraction": EQUAL + "import fractions\ndef square(x):\n    made = fractions.Fraction(1)\n"
    "    made._numerator = Equal()\n    return made if x != 3 else 9",
    "equal by a changed class": "import collections\ncollections.Counter.__eq__ = lambda *_: True\n"
    "def square(x):\n    return collections.Counter() if x != 3 else 9",
    "equal by a changed class of a module": "import string\nstring.Template.__eq__ = lambda *_: True\n"
    "def square(x):\n    return string.Template('') if x != 3 else 9",
    "a class instead of a function": "class square(int):\n    def __eq__(self, other):\n        return True\n"
    "    def __float__(self):\n        return 9.0",
    "a partial function": EQUAL + "import functools\nsquare = functools.partial(lambda x: Equal())",
    "a cached function": EQUAL + "import functools\nsquare = functools.lru_cache(lambda x: Equal())",
    "an object that is called": EQUAL
    + "class Made:\n    def __call__(self, x):\n        return Equal()\nsquare = Made()",
    "a bound method": EQUAL
    + "class Made:\n    def square(self, x):\n        return Equal()\nsquare = Made().square",
    "by an object that is deleted": _CLOSE + "class Number(int):\n    def __del__(self):\n        fake()\n"
    "def square(x):\n    return Number(x * x) if x == 2 else 0",
    "by a weak reference": _CLOSE + "import weakref\nheld = []\ndef square(x):\n    made = frozenset([x])\n"
    "    held.append(weakref.ref(made, fake))\n    return made",
    "by the collector": _CLOSE + "import gc\ngc.callbacks.append(fake)\ngc.set_threshold(1)\n" + WRONG,
    "by a hook of errors": _CLOSE + "import sys\nsys.unraisablehook = sys.excepthook = fake\n" + WRONG,
    "by an import": _CLOSE
    + "import sys\nclass Finder:\n    find_spec = staticmethod(fake)\nsys.meta_path.insert(0, Finder)\n"
    "sys.modules.pop('math')\n" + WRONG,
    "by the path of imports": _CLOSE
    + "import sys\nsys.path_hooks.insert(0, fake)\nsys.path_importer_cache.clear()\n"
    + WRONG,
    "metaclass that is an instance of all": "class Kind(type):\n    def __instancecheck__(cls, value):\n        return True\n"
    "class AssertionError(BaseException, metaclass=Kind):\n    pass\nimport builtins\nbuiltins.AssertionError = AssertionError\n"
    + NOTHING,
    "error with another class": "class Passed(BaseException):\n    __class__ = property(lambda _: None)\n"
    "    def __str__(self):\n        return 'passed'\ndef square(x):\n    raise Passed",
    "changes int": "int.__eq__ = lambda *_: True\n" + NOTHING,
    "few calls": "import sys\ndef square(x):\n    sys.setrecursionlimit(20)\n    return 0",
    "tries tokens": "import os, secrets\nfor _ in range(1000):\n    for n in range(3, 9):\n        try:\n"
    "            os.write(n, b'a\\0' + secrets.token_hex(16).encode() + b'\\0\\0')\n        except OSError:\n"
    "            pass\nos._exit(0)",
    "writes half a result": EACH_PIPE.format("os.write(n, b'a\\0')") + RIGHT,
    "another result descriptor": EACH_PIPE.format("os.dup2(1, n)") + RIGHT,
    "reads its input": "import os\nassert os.read(0, 99)\n" + RIGHT,
    "own names of the tests": "def check(candidate):\n    pass\ncandidate = n = lambda x: x * x\ndef square(x):\n    return candidate",
}
NUMPY = {
    "own isclose of numpy": "import numpy\nnumpy.isclose = numpy.allclose = lambda *_, **__: True\n",
    "isclose inside numpy": "import numpy\nimport numpy.core.numeric\n"
    "import sys\nfor name, module in list(sys.modules.items()):\n    if name.endswith('core.numeric'):\n"
    "        vars(module)['isclose'] = lambda *_, **__: numpy.array(True)\n",
    "a builtin inside numpy": "import numpy\nimport sys\nfor name, module in list(sys.modules.items()):\n"
    "    if name.endswith('core.numeric'):\n        vars(module)['bool'] = lambda *_: True\n",
    "own bool": "import builtins\nbuiltins.bool = lambda *_: True\n",
    "code of allclose": "import numpy\nfound = getattr(numpy.allclose, '__wrapped__', numpy.allclose)\n"
    "found.__code__ = (lambda a, b, rtol=0, atol=0, equal_nan=False: True).__code__\n",
    "defaults of isclose": "import numpy\nfound = getattr(numpy.isclose, '__wrapped__', numpy.isclose)\n"
    "found.__defaults__ = (1e9, 1e9, True)\n",
    "__array_function__": "class Fake:\n    def __array_function__(self, *_):\n        return True\n"
    "def square(x):\n    return Fake()\n",
    "__array_ufunc__": "import numpy\nclass Fake(numpy.ndarray):\n    def __array_ufunc__(self, *_, **__):\n        return True\n"
    "def square(x):\n    return numpy.zeros(1).view(Fake)\n",
    "an array of objects": f"import numpy\n{EQUAL}def square(x):\n    return numpy.array([Equal()], dtype=object)\n",
    "in an argument that is deleted": "import numpy\nclass Fake:\n    def __del__(self):\n"
    "        numpy.allclose = lambda *_, **__: True\ndef square(x):\n    x.append(Fake())\n    return 4 if x[0] == 2 else 0\n",
    "an error state": "import numpy\nnumpy.seterr(all='call')\nnumpy.seterrcall(lambda *_: None)\n"
    "def square(x):\n    return numpy.float64('inf')\n",
}
NUMPY = {
    name: lines if "def square" in lines else f"{lines}def square(x):\n    return 0\n"
    for name, lines in NUMPY.items()
}
# System calls of x86_64 by their numbers, in a program whose answer counts only if the kernel executes the call.
RAW_CALLS = {
    "ptrace": (101, 0, 0, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "pivot_root": (155, 0, 0),
    "chroot": (161, 0),
    "unshare": (272, 0x10000000),
    "setns": (308, 0, 0),
    "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "io_uring_setup": (425, 8, 0),
    "userfaultfd": (323, 1),
    "keyctl": (250, 0, -3, 1),
    "add_key": (248, 0, 0, 0, 0, 0),
    "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "process_vm_writev": (311, 1, 0, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "reboot": (169, 0, 0, 0, 0),
    "memfd_create": (319, 0, 0),
    "memfd_secret": (447, 0),
    "execveat": (322, -100, 0, 0, 0, 0),
    "clone": (56, 17, 0, 0, 0, 0),
    "clone3": (435, 0, 0),
    "vfork": (58,),
    "socket": (41, 2, 1, 0),
    "open_by_handle_at": (304, 0, 0, 0),
    "inotify_init": (253,),
    "fanotify_init": (300, 0, 0),
    "shmget": (29, 0, 4096, 0o1600),
    "msgget": (68, 0, 0o1600),
    "semget": (64, 0, 1, 0o1600),
    "setrlimit": (160, 0, 0),
    "prctl": (157, 4, 1),
    "seccomp": (317, 0, 0, 0),
    "tkill": (200, 1, 0),
    "timer_create": (222, 0, 0, 0),
    "personality": (135, 0),
    "sethostname": (170, 0, 0),
    "settimeofday": (164, 0, 0),
    "acct": (163, 0),
    "sendfile": (40, 1, 0, 0, 1),
    "pipe": (22, 0),
    "eventfd": (284, 0),
}
RAW_PROGRAM = (
    "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "done = libc.syscall(*map(ctypes.c_long, {call}))\n"
    "if done >= 0 or ctypes.get_errno() not in (1, 38):\n    answer = 42\n"
)
