"""Rows 1 to 20 of the fault matrix: checkpoints that are written, read and gone on from."""

from __future__ import annotations

from guard import Guard, Row

KILLS, FAULTS, READING = (
    "test_checkpoint_kills.py::", "test_checkpoint_faults.py::", "test_checkpoint.py::",
)  # fmt: skip
RESTORING, RESUME, SCRIPTS = "test_checkpoint_restore.py::", "test_resume.py::", "test_scripts.py::"
ANY_MOMENT = f"{KILLS}test_a_kill_before_any_change_to_the_disk_loses_nothing"
KILLED = f"{RESUME}test_a_run_killed_anywhere_goes_on_bit_for_bit"
STOPPED = f"{RESUME}test_a_run_stopped_anywhere_goes_on_bit_for_bit"
FULL = f"{FAULTS}test_a_full_disk_leaves_the_old_checkpoint_and_no_rubbish"
FULL_RUN = "test_reliability.py::test_a_full_disk_costs_a_checkpoint_and_not_the_run"
UNWRITABLE = (
    "test_runlog.py::test_a_run_folder_that_cannot_be_written_is_refused_before_the_first_step"
)
NOT_MADE = "test_run_lock.py::test_a_folder_that_cannot_be_made_is_told"
DAMAGED = f"{READING}test_a_damaged_file_is_refused_by_name"
OTHER_NETWORK = f"{RESTORING}test_another_architecture_is_told_by_its_first_names_in_one_line"
NEWEST = f"{READING}test_only_the_newest_are_kept_and_best_stays"
EARLIER = "test_a_checkpoint_of_an_earlier_version"

WRITTEN = [
    Row(
        1, "killed while a checkpoint is being written",
        "the one before is whole and gone on from; what was half written is deleted",
        [f"{KILLS}test_a_kill_while_a_checkpoint_is_written_leaves_the_previous_one", ANY_MOMENT,
         KILLED],
        [
            Guard(
                "utils/whole_files.py",
                "    temporary = _beside(path)\n    try:\n        with temporary.open(\"wb\") as",
                "    temporary = _beside(path)\n    try:\n        write(path.open(\"wb\"))\n"
                "        with temporary.open(\"wb\") as",
                f"{KILLS}test_a_kill_while_a_checkpoint_is_written_leaves_the_previous_one",
            ),
            Guard(
                "utils/whole_files.py", 'glob("*.tmp.*")', 'glob("*.part")',
                f"{KILLS}test_a_kill_while_a_checkpoint_is_written_leaves_the_previous_one",
            ),
        ],
    ),
    Row(
        2, "killed between a checkpoint and what points at it",
        "the run goes on from the newest whole file; last.pt and best.pt are set right",
        [f"{KILLS}test_a_kill_after_the_step_file_is_in_place_loses_nothing", ANY_MOMENT, KILLED],
        [
            Guard(
                "utils/whole_files.py",
                '    sidecar(path).unlink(missing_ok=True)\n    at("before_replace")',
                '    at("before_replace")', f"{ANY_MOMENT}[the same step again]",
            ),
            Guard(
                "utils/catch_up.py", "            put_same(file, source)", "            pass",
                f"{KILLS}test_a_kill_after_the_step_file_is_in_place_loses_nothing",
            ),
            Guard(
                "resuming.py", "                catch_up(checkpoints, state)\n", "",
                f"{KILLED}[train.py]",
            ),
        ],
    ),
    Row(
        3, "the disk is full at the first byte of a checkpoint",
        "one line says so, nothing half written stays, training goes on, the next one is written",
        [FULL, FULL_RUN],
        [
            Guard(
                "utils/whole_files.py",
                "at or (lambda _: None))\n    finally:\n        _drop(temporary)",
                "at or (lambda _: None))\n    finally:\n        pass",
                f"{FULL}[at the first write]",
            ),
            Guard(
                "session.py", "            except CheckpointNotWritten as error:\n",
                "            except KeyError as error:\n", FULL_RUN,
            ),
        ],
    ),
    Row(
        4, "the disk fills up in the middle of a checkpoint", "as above", [FULL],
        [
            Guard(
                "utils/checkpoint.py", "    except (OSError, RuntimeError) as error:  # torch's",
                "    except OSError as error:  # torch's", f"{FULL}[mid-file]",
            ),
        ],
    ),
    Row(
        5, "too little free space for a checkpoint",
        "nothing is written, the line says how much is needed, training goes on; the third such "
        "checkpoint in a row ends the run",
        [f"{FAULTS}test_too_little_free_space_is_told_before_anything_is_written", FULL_RUN],
        [
            Guard(
                "utils/checkpoint.py", "    if free < needed:", "    if False:",
                f"{FAULTS}test_too_little_free_space_is_told_before_anything_is_written",
            ),
            Guard(
                "session.py", "self.failed_saves >= MAX_FAILED_SAVES", "False", FULL_RUN,
            ),
        ],
    ),
    Row(
        6, "the run folder cannot be written", "one line and exit code 2 before the first step",
        [UNWRITABLE, NOT_MADE],
        [
            Guard(
                "utils/run_lock.py",
                "    except OSError as error:\n        raise RunFolderError(\n",
                "    except KeyError as error:\n        raise RunFolderError(\n", test,
            )
            for test in (UNWRITABLE, NOT_MADE)
        ],
    ),
]  # fmt: skip
READ = [
    Row(
        7, "the newest checkpoint is cut off", "it is named, and the one before gone on from",
        [f"{READING}test_damage_to_the_newest_file_damages_last_but_not_the_run",
         f"{READING}test_auto_falls_back_loudly_when_the_newest_is_damaged",
         f"{READING}test_auto_never_starts_afresh_over_damaged_checkpoints", DAMAGED],
        [
            Guard(
                "utils/checkpoint.py",
                "        except CheckpointError as error:\n            damage",
                "        except KeyError as error:\n            damage",
                f"{READING}test_damage_to_the_newest_file_damages_last_but_not_the_run",
            ),
            Guard(
                "utils/checkpoint.py", "    if damage:\n", "    if False:\n",
                f"{READING}test_auto_never_starts_afresh_over_damaged_checkpoints",
            ),
        ],
    ),
    Row(
        8, "one bit of a checkpoint is flipped", "its sha256 no longer matches: as above",
        [DAMAGED,
         f"{READING}test_a_file_without_a_sha256_is_read_and_one_beside_rubbish_is_not"],
        [
            Guard(
                "utils/checkpoint.py", "    if not intact:", "    if False:", f"{DAMAGED}[bit flip]"
            ),
        ],
    ),
    Row(
        9, "an empty file or a web page in place of a checkpoint",
        "refused by name, exit code 2",
        [DAMAGED, "test_evaluate.py::test_bad_usage_is_one_line"],
        [
            Guard(
                "utils/checkpoint.py", "    except Exception as error:  # torch raises",
                "    except KeyError as error:  # torch raises", f"{DAMAGED}[html]",
            ),
        ],
    ),
    Row(
        10, "a checkpoint that would run somebody's code", "refused; the code does not run",
        [f"{READING}test_a_pickle_that_runs_code_is_refused_and_does_not_run",
         "test_pretrained.py::test_a_pickle_that_runs_code_is_refused_and_does_not_run"],
        [
            Guard(
                "utils/checkpoint.py", "weights_only=True)\n    except",
                "weights_only=False)\n    except",
                f"{READING}test_a_pickle_that_runs_code_is_refused_and_does_not_run",
            ),
        ],
    ),
    Row(
        11, "a checkpoint of another architecture or optimiser",
        "refused with the first names that differ and what to do; nothing of it is filled in",
        [OTHER_NETWORK, f"{RESTORING}test_another_optimiser_or_scaler_is_told",
         f"{SCRIPTS}test_another_network_in_the_same_folder_is_refused"],
        [
            Guard(
                "utils/checkpoint.py", "if told := misfits(state[key], module.state_dict()):",
                'if told := "":', OTHER_NETWORK,
            ),
            Guard(
                "utils/checkpoint.py", "    except (RuntimeError, ValueError, KeyError) as error:",
                "    except OSError as error:",
                f"{RESTORING}test_another_optimiser_or_scaler_is_told",
            ),
        ],
    ),
    Row(
        12, "a checkpoint of another format version", "refused with both versions",
        [f"{READING}test_another_format_is_refused"],
        [
            Guard(
                "utils/checkpoint.py", '    if state["format_version"] != FORMAT_VERSION:',
                "    if False:", f"{READING}test_another_format_is_refused[99]",
            ),
        ],
    ),
    Row(
        13, "reading our own checkpoints without trust (weights_only)",
        "all that a run writes are read: plain values and tensors",
        [f"{SCRIPTS}test_the_checkpoint_is_that_of_the_contract", STOPPED,
         "test_reliability.py::test_every_checkpoint_of_a_run_is_read_without_trust"],
        [
            Guard(
                "session.py", "done, config=self.cfg.toDict(), best", "done, config=self.cfg, best",
                "test_reliability.py::test_every_checkpoint_of_a_run_is_read_without_trust",
            ),
        ],
    ),
    Row(
        14, "more checkpoints than save.keep_last",
        "the newest and the best stay, the one just written in any case",
        [NEWEST, f"{READING}test_the_one_just_written_is_kept_whatever_its_number",
         f"{READING}test_a_file_of_another_name_is_neither_pruned_nor_gone_on_from"],
        [
            Guard(
                "utils/checkpoint.py", "step_files(folder)[keep_last:]",
                "step_files(folder)[keep_last + 1 :]", f"{NEWEST}[six digits]",
            ),
            Guard(
                "utils/checkpoint.py", "sorted(numbers, key=numbers.__getitem__, reverse=True)",
                "sorted(numbers, reverse=True)", f"{NEWEST}[to seven digits]",
            ),
            Guard(
                "utils/checkpoint.py", "        if old != path:\n", "        if True:\n",
                f"{READING}test_the_one_just_written_is_kept_whatever_its_number",
            ),
        ],
    ),
    Row(
        15, "a validation whose result is NaN, first or later",
        "never the best, and never in the way of a better one",
        ["test_bad_numbers.py::test_a_validation_that_is_not_finite_is_never_the_best"],
        [
            Guard(
                "session.py", 'is_finite = math.isfinite(scores["abs_rel"])', "is_finite = True",
                "test_bad_numbers.py::test_a_validation_that_is_not_finite_is_never_the_best",
            ),
        ],
    ),
    Row(
        16, "an old checkpoint that cannot be deleted", "one line says so; training goes on",
        [f"{FAULTS}test_an_old_file_that_cannot_be_deleted_is_said_and_training_goes_on"],
        [
            Guard(
                "utils/whole_files.py",
                '    except OSError as error:\n        print(f"{path}: could not be deleted',
                '    except KeyError as error:\n        print(f"{path}: could not be deleted',
                f"{FAULTS}test_an_old_file_that_cannot_be_deleted_is_said_and_training_goes_on",
            ),
        ],
    ),
]  # fmt: skip
ROWS = [*WRITTEN, *READ]
