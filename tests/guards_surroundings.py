"""Rows 43 to 60 of the fault matrix: the machine, wandb, settings, other runs, network, exports."""

from __future__ import annotations

from guard import Guard, Row

WORKERS = "test_workers.py::"
KILLED = (
    f"{WORKERS}test_a_killed_loader_process_ends_the_run_with_its_likely_cause_and_a_checkpoint"
)
HANGS = f"{WORKERS}test_a_loader_process_that_hangs_ends_the_run_and_shows_where_it_stood"
LACKS = f"{WORKERS}test_what_the_machine_lacks_is_said_with_a_remedy_in_one_line"
NO_MEMORY = f"{WORKERS}test_out_of_memory_ends_a_run_with_advice_and_a_checkpoint"
WANDB, CONFIG, HOSTILE = "test_wandb.py::", "test_config.py::", "test_hostile_scripts.py::"
LOCK, EXPORT = "test_run_lock.py::", "test_export.py::"
ABSENT = f"{WANDB}test_without_wandb_training_runs_and_says_so"
UNREACHABLE = f"{WANDB}test_a_server_that_cannot_be_reached_turns_the_run_offline"
BREAKS = f"{WANDB}test_a_wandb_that_breaks_while_logging_is_left_out"
SAME_ID = f"{WANDB}test_a_resumed_run_keeps_its_wandb_id"
NO_DOUBLE = "test_runlog.py::test_a_resumed_log_has_neither_a_double_nor_a_missing_step"
WORD = f"{CONFIG}test_a_wrong_word_is_refused_and_the_message_names_the_remedy"
FILE = f"{CONFIG}test_a_wrong_file_is_refused_with_its_name"
BAD_FILE = f"{HOSTILE}test_a_bad_configuration_file_is_one_line_and_exit_code_2"
NUMBER = f"{CONFIG}test_scientific_notation_is_a_number"
TAG = f"{CONFIG}test_a_tag_runs_no_code"
FILLS = f"{CONFIG}test_what_would_fill_memory_or_stack_is_refused_quickly"
ANY_WORD = "test_fuzz.py::test_a_word_of_the_command_line_obeys_the_rules_or_is_refused"
BAD_VALUE = f"{HOSTILE}test_a_bad_value_costs_neither_a_download_nor_the_gpu"
TWO_RUNS = "test_resume.py::test_two_runs_in_one_folder_are_refused"
SECOND = f"{LOCK}test_a_second_run_is_refused_by_name_while_the_first_lives"
STALE = f"{LOCK}test_a_killed_run_leaves_no_lock"
FORKED = f"{LOCK}test_a_forked_loader_process_does_not_keep_the_lock_of_a_killed_run"
TWICE = f"{LOCK}test_the_same_process_may_take_it_again_once_released"
CLOCK = f"{HOSTILE}test_a_clock_that_jumps_backwards_makes_nothing_negative"
NO_NETWORK = f"{HOSTILE}test_without_a_network_pretrained_weights_fail_at_once_with_the_remedy"
OFFLINE = "test_pretrained.py::test_offline_and_not_cached_fails_in_seconds_with_the_remedy"
TORCHVISION = f"{HOSTILE}test_a_torchvision_of_another_build_is_one_line_that_names_the_installer"
SCREEN = f"{HOSTILE}test_a_closed_screen_costs_no_step_of_a_run"
READER = f"{HOSTILE}test_whoever_stops_reading_sees_no_traceback"
LOG_FILE = f"{HOSTILE}test_a_log_file_gets_no_control_characters"
ONNX = f"{EXPORT}test_onnx_computes_what_the_network_does_at_any_batch_and_size"
DIFFERS = f"{EXPORT}test_a_graph_that_differs_fails_and_leaves_nothing"
HUB = f"{EXPORT}test_a_hub_folder_comes_back_bit_for_bit_both_ways_offline"
NO_TENSOR = f"{EXPORT}test_hub_weights_that_lack_a_tensor_are_refused_both_ways"
REAL_CLOCK = "import time as _time\nfrom types import SimpleNamespace\n"
REAL_CLOCK += "time = SimpleNamespace(monotonic=lambda: _time.time())\n"

MACHINE = [
    Row(
        43, "a loader process is killed, as for lack of memory",
        "the likely cause and what to try, a checkpoint, exit code 1", [KILLED],
        [
            Guard("utils/advice.py", 'elif "DataLoader worker" in told:', "elif False:", KILLED),
            Guard("session.py", "self._save_in_emergency(error)", "pass", KILLED),
        ],
    ),
    Row(
        44, "a loader process hangs, as with dead storage",
        "after train.worker_timeout_s: where it stands, a checkpoint, exit code 1", [HANGS],
        [
            Guard("utils/command_line.py", "            _show_where_children_stand()\n",
                  "            pass\n", HANGS),
            Guard("datasets/loading.py", "timeout=timeout_s if num_workers else 0",
                  "timeout=0", HANGS),
        ],
    ),
    Row(
        45, "no room in shared memory", "the message names /dev/shm and the settings that help",
        [LACKS],
        [
            Guard(
                "utils/advice.py",
                'if "Bus error" in told or "shared memory" in told or "shm" in told:', "if False:",
                LACKS,
            ),
        ],
    ),
    Row(
        46, "the GPU has no memory left",
        "the settings that help, a checkpoint, exit code 1; the batch is never changed in silence",
        [NO_MEMORY, LACKS],
        [
            Guard("utils/advice.py", "isinstance(error, torch.OutOfMemoryError)", "False", test)
            for test in (NO_MEMORY, LACKS)
        ],
    ),
]  # fmt: skip
TRACKING = [
    Row(
        47, "wandb is not installed", "one line; the run goes on, metrics.jsonl has everything",
        [ABSENT],
        [Guard("utils/runlog.py", "    except ImportError:", "    except KeyError:", ABSENT)],
    ),
    Row(
        48, "wandb's server cannot be reached",
        "after 30 s (WANDB_INIT_TIMEOUT) one line; the run is logged offline", [UNREACHABLE],
        [Guard("utils/runlog.py", 'dict.fromkeys((mode, "offline"))', "(mode,)", UNREACHABLE)],
    ),
    Row(
        49, "wandb raises while it logs", "one line, once; it is left out and the run goes on",
        [BREAKS],
        [
            Guard(
                "utils/runlog.py", "except Exception as error:  # whatever",
                "except KeyError as error:  # whatever", BREAKS,
            ),
            Guard("utils/runlog.py", "on: {error}\")\n            self.wandb = None",
                  "on: {error}\")", BREAKS),
        ],
    ),
    Row(
        50, "a run goes on: its place in wandb, its lines in metrics.jsonl",
        "the same wandb id; no step twice, none missing, no half line", [SAME_ID, NO_DOUBLE],
        [
            Guard("utils/runlog.py", "                id=wandb_id,",
                  "                id=None,", SAME_ID),
            Guard("utils/runlog.py", 'json.loads(line)["step"] <= first_step',
                  'json.loads(line)["step"]', NO_DOUBLE),
        ],
    ),
]  # fmt: skip
WORDS = [
    Row(
        51, "a misspelt setting, in a word or a file",
        "exit code 2: which one, and the nearest that exists", [WORD, FILE, BAD_FILE],
        [
            Guard("utils/config.py", 'return f", did you mean {found[0]!r}?" if found else',
                  'return "" if found else', test)
            for test in (WORD, f"{BAD_FILE}[typo]")
        ],
    ),
    Row(
        52, "`1e-4`, a key given twice, a tab, a tag, an alias, a bomb in a configuration",
        "`1e-4` is a number; all else is refused with file and line, and no code runs",
        [NUMBER, FILE, TAG, FILLS, WORD, BAD_FILE, ANY_WORD],
        [
            Guard("utils/config.py", "({_DIGITS}\\.?[0-9_]*|\\.{_DIGITS})[eE]",
                  "({_DIGITS}\\.[0-9_]*|\\.{_DIGITS})[eE]", NUMBER),
            Guard("utils/config.py", "        if key in values:", "        if False:", FILE),
            Guard("utils/config.py", "        if event.tag is not None:", "        if False:", TAG),
            Guard("utils/config.py", "        if self.depth == MAX_DEPTH:",
                  "        if False:", FILLS),
            Guard("utils/config.py", "    if len(text) > MAX_BYTES:", "    if False:", FILLS),
            Guard("utils/config.py", "        if isinstance(event, yaml.AliasEvent):",
                  "        if False:", WORD),
            Guard("utils/config.py", "[1-9][0-9_]{0,17}", "[1-9][0-9_]*", WORD),
            Guard("utils/config.py", "    for _class in (_StrictLoader, _StrictDumper):",
                  "    for _class in (_StrictLoader,):", ANY_WORD),
        ],
    ),
    Row(
        53, "a value of the wrong type or out of range",
        "exit code 2 before any download, and before anything is on the GPU", [BAD_VALUE, WORD],
        [
            Guard("utils/config_rules.py", '"optimizer.lr": number(0, 1, above=True),',
                  '"optimizer.lr": lambda value: "",', BAD_VALUE),
            Guard("utils/config_rules.py", " or value == math.inf", "", WORD),
        ],
    ),
]  # fmt: skip
OUTSIDE = [
    Row(
        54, "two runs in one folder at once",
        "the second is refused with pid and host of the first; a killed run leaves no lock",
        [TWO_RUNS, SECOND, STALE, FORKED, TWICE],
        [
            Guard("resuming.py", "hold(folder) if process.is_main else None", "None", TWO_RUNS),
            Guard("utils/run_lock.py", "fcntl.lockf(descriptor,",
                  "fcntl.flock(descriptor,", FORKED),
            Guard("utils/run_lock.py", "if (os.getpid(), file) in _held:", "if False:", TWICE),
            Guard("utils/run_lock.py", "time.monotonic() + patience_s, False",
                  "time.monotonic(), False", SECOND),
        ],
    ),
    Row(
        55, "the clock jumps backwards", "speed, waiting and time left are never negative",
        [CLOCK, "test_runlog.py::test_a_clock_that_jumps_back_makes_no_negative_speed"],
        [
            Guard(file, "import time\n", REAL_CLOCK, CLOCK)
            for file in ("utils/runlog.py", "utils/throughput.py")
        ],
    ),
    Row(
        56, "pretrained weights without a network",
        "fails in seconds and says where to get a file", [NO_NETWORK, OFFLINE],
        [
            Guard("networks/pretrained.py", "            _require_hub(name, repository)\n",
                  "            pass\n", test)
            for test in (NO_NETWORK, OFFLINE)
        ],
    ),
    Row(
        57, "a torchvision that was built for another torch",
        "one line that names package_install.sh, exit code 2", [TORCHVISION],
        [
            Guard("networks/encoder.py", "except RuntimeError as error:  # torch without CUDA",
                  "except KeyError as error:  # torch without CUDA", TORCHVISION),
        ],
    ),
    Row(
        58, "nobody reads the output any more, or it goes to a file",
        "the run goes on; no traceback; no control characters in a file",
        [SCREEN, READER, LOG_FILE],
        [
            Guard("utils/screen.py",
                  f"            {call}\n        except BrokenPipeError:",
                  f"            {call}\n        except KeyError:", test)
            for call, test in (
                ("self._stream.flush()", SCREEN), ("return self._stream.write(text)", READER),
                ("self._stream.flush()", READER),
            )
        ] + [
            Guard("utils/runlog.py", "        if sys.stderr.isatty():", "        if True:",
                  LOG_FILE),
        ],
    ),
    Row(
        59, "an ONNX graph at another batch or image size, or one that computes something else",
        "the same depth at any size; one that differs is not written, exit code 1", [ONNX, DIFFERS],
        [
            Guard("export_onnx.py", "dynamo=True, dynamic_shapes=(axes,),", "dynamo=True,", ONNX),
            Guard("export_onnx.py", "(3, network.image_size), (1, other)):",
                  "(3, network.image_size)):", DIFFERS),
        ],
    ),
    Row(
        60, "an exported network is loaded again",
        "the same output bit for bit; a missing tensor is refused",
        [HUB, NO_TENSOR, f"{EXPORT}test_safetensors_comes_back_bit_for_bit"],
        [
            Guard("networks/hub.py", "    hub_network.load_state_dict(network.state_dict())\n",
                  "", HUB),
            Guard("networks/hub.py", "_from_pretrained(strict=strict, **arguments)",
                  "_from_pretrained(strict=False, **arguments)", NO_TENSOR),
        ],
    ),
]  # fmt: skip
ROWS = [*MACHINE, *TRACKING, *WORDS, *OUTSIDE]
