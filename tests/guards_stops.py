"""Rows 17 to 29 of the fault matrix: runs that stop and go on, signals, several processes."""

from __future__ import annotations

from guard import Guard, Row

RESUME, TORCHRUN, READING = "test_resume.py::", "test_torchrun.py::", "test_checkpoint.py::"
STOPPED = f"{RESUME}test_a_run_stopped_anywhere_goes_on_bit_for_bit"
KILLED = f"{RESUME}test_a_run_killed_anywhere_goes_on_bit_for_bit"
NO_PROGRESS = f"{READING}test_a_checkpoint_of_an_earlier_version_has_no_progress"
LACKS = f"{RESUME}test_a_checkpoint_of_an_earlier_version_goes_on_and_says_what_it_lacks"
OTHERS = f"{RESUME}test_with_other_processes_or_batches_no_sample_is_left_out_or_comes_twice"
COUNTS_ON = f"{RESUME}test_a_run_that_goes_on_with_other_batches_counts_its_samples_on"
READ = "test_reliability.py::test_every_checkpoint_of_a_run_is_read_without_trust"
VALIDATION = f"{RESUME}test_a_stop_within_a_validation_leaves_no_line_of_it_and_makes_it_first"
TWO = f"{RESUME}test_two_processes_that_are_stopped_and_killed_go_on_bit_for_bit"
CTRL_C = f"{RESUME}test_a_second_ctrl_c_ends_at_once_and_the_first_saves"
TO_TORCHRUN = f"{TORCHRUN}test_a_signal_to_torchrun_stops_all_processes_at_one_step"
TO_ONE = f"{TORCHRUN}test_a_signal_to_one_process_stops_both_at_one_step"
MACHINES = (
    "test_slurm.py::test_a_training_on_two_machines_stops_is_queued_again_and_goes_on_bit_for_bit"
)
DIES = f"{TORCHRUN}test_a_process_that_dies_once_costs_nothing"
HANGS = f"{TORCHRUN}test_a_process_that_hangs_ends_the_others_which_name_it"
NEVER_COMES = "test_processes.py::test_a_process_that_never_comes_is_named"
UNEVEN = f"{TORCHRUN}test_frames_that_do_not_fill_the_processes_batches_are_shared_evenly"
VALIDATE_TWO = f"{TORCHRUN}test_validation_by_two_processes_gives_what_one_gives"

GONE_ON_FROM = [
    Row(
        17, "`train.py` stopped in an epoch, at its end, in the warm-up; with and without loaders",
        "weights, average, optimiser, metrics and pictures are bit for bit those of one run",
        [STOPPED, KILLED,
         "test_scripts.py::test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped",
         "test_scripts.py::test_a_moving_average_is_what_is_evaluated_saved_and_resumed"],
        [
            Guard(file, old, new, f"{STOPPED}[{workers}-train.py]")
            for file, old, new, workers in (
                ("streams.py", "first_sample=samples[name]", "first_sample=0", 0),
                ("utils/checkpoint.py", '        averaged.resume(state["step"])\n', "", 0),
                ("utils/checkpoint.py", '        optimizer.load_state_dict(state["optimizer"])\n',
                 "", 0),
                ("datasets/loading.py", "generator = self.generator_for(number)",
                 "generator = torch.default_generator", 2),
            )
        ],
    ),
    Row(
        18, "`consistency_train.py` stopped likewise: two streams, token groups",
        "as above",
        [STOPPED, KILLED],
        [
            Guard(
                "consistency_train.py", 'f"{stream} groups", number)',
                'f"{stream} groups", id(cfg))',
                f"{STOPPED}[0-consistency_train.py]",
            ),
            Guard(
                "utils/averaging.py", "        self.num_updates = step\n", "        pass\n",
                f"{STOPPED}[0-consistency_train.py]",
            ),
        ],
    ),
    Row(
        19, "a checkpoint without counts, of an earlier version",
        "a line says what starts at 0; the run goes on. Random state is never saved: nothing of it "
        "can be missing",
        [NO_PROGRESS, LACKS],
        [
            Guard(
                "utils/checkpoint.py", '        state.setdefault("progress", None)\n',
                "        pass\n",
                NO_PROGRESS,
            ),
            Guard(
                "resuming.py", '    if state["progress"] is None:', "    if False:",
                LACKS,
            ),
        ],
    ),
    Row(
        20, "a run goes on with another number of processes, or other batch sizes",
        "no sample comes twice, none is left out; changed settings are told",
        [OTHERS,
         COUNTS_ON],
        [
            Guard(
                "datasets/order.py", "start = self.first_sample + self.rank * self.batch_size",
                "start = self.first_sample",
                OTHERS,
            ),
            Guard(
                "utils/run_progress.py", "progress.samples = counted | progress.samples",
                "progress.samples = counted",
                COUNTS_ON,
            ),
        ],
    ),
]  # fmt: skip
SIGNALS = [
    Row(
        21, "SIGTERM in a step", "the step is finished and saved, exit code 143; nothing is lost",
        [STOPPED, READ],
        [
            Guard("utils/signals.py", "    signal.SIGTERM,\n", "", f"{READ}[train.py]"),
            Guard(
                "utils/command_line.py", "EXIT_STOPPED = 143", "EXIT_STOPPED = 0",
                f"{STOPPED}[0-train.py]",
            ),
        ],
    ),
    Row(
        22, "SIGTERM in a validation",
        "it ends within a batch of images, leaves no line, and is made when the run goes on",
        [VALIDATION, STOPPED],
        [
            Guard(
                "monitoring.py", "itertools.takewhile(lambda _: not stop(), predictions)",
                "predictions", VALIDATION,
            ),
            Guard(
                "session.py", "                if self.learner.progress.awaits_validation:",
                "                if False:", VALIDATION,
            ),
        ],
    ),
    Row(
        23, "SIGUSR1 to torchrun, as from SLURM before the time limit",
        "all processes save at the same step and end; none is left behind",
        [TO_TORCHRUN, MACHINES],
        [
            Guard("utils/signals.py", "    signal.SIGUSR1,\n", "",
                  f"{TO_TORCHRUN}[train.py-numbers0]"),
        ],
    ),
    Row(
        24, "a signal to one process of several", "all stop behind the same step",
        [TO_ONE, TWO],
        [
            Guard(
                "utils/agreement.py", "distributed.ReduceOp.MAX", "distributed.ReduceOp.MIN", TO_ONE
            ),
            Guard(
                "utils/agreement.py", "        return answer\n", "        return answer or asked\n",
                TO_ONE,
            ),
        ],
    ),
    Row(
        25, "Ctrl-C twice", "the first saves and ends, exit code 143; the second ends at once, 130",
        [CTRL_C],
        [
            Guard("utils/signals.py", "    signal.SIGINT,\n", "", CTRL_C),
            Guard(
                "utils/signals.py", "                raise KeyboardInterrupt",
                "                pass", CTRL_C,
            ),
        ],
    ),
]  # fmt: skip
GROUPS = [
    Row(
        26, "a process dies once", "torchrun starts all again; the run is bit for bit one without",
        [DIES, TWO],
        [
            Guard("streams.py", "first_sample=samples[name]", "first_sample=0",
                  f"{DIES}[train.py]"),
            Guard("utils/processes.py", '_USE_AGENT_STORE") == "True":',
                  '_USE_AGENT_STORE") == "":', f"{DIES}[train.py]"),
        ],
    ),
    Row(
        27, "a process hangs",
        "the others end after run.timeout_s, name it, and leave nothing behind",
        [NEVER_COMES, HANGS],
        [
            Guard(
                "session.py", "raise explained(error, self.process) from error", "raise",
                NEVER_COMES,
            ),
            Guard("utils/processes.py", "timeout_s + extra_s", "1000", NEVER_COMES),
            Guard("learner.py", "            report(self.process, step + 1)\n", "", HANGS),
        ],
    ),
    Row(
        28, "frames that do not fill the batches of all processes",
        "no process waits; two learn what one learns from the same batch", [UNEVEN],
        [
            Guard(
                "datasets/order.py", "start += self.world_size * self.batch_size",
                "start += self.batch_size", UNEVEN,
            ),
        ],
    ),
    Row(
        29, "validation of a number of frames that two processes cannot share evenly",
        "the numbers of one process to 1e-12; no frame counts twice", [VALIDATE_TWO],
        [
            Guard(
                "monitoring.py", "indices[self.process.rank :: self.process.world_size]",
                "indices", VALIDATE_TWO,
            ),
        ],
    ),
]  # fmt: skip
ROWS = [*GONE_ON_FROM, *SIGNALS, *GROUPS]
