"""Rows 30 to 42 of the fault matrix: numbers, pictures, depth and lists that are bad."""

from __future__ import annotations

from guard import Guard, Row

FUZZ, FILES, LOADING = "test_fuzz.py::", "test_bad_files.py::", "test_loading.py::"
SPLITS, LEAKAGE = "test_splits.py::", "test_leakage.py::"
NUMBERS = "test_bad_numbers.py::"
NOT_FINITE = f"{NUMBERS}test_a_step_that_is_not_finite_changes_neither_weights_nor_average"
IN_A_ROW = f"{NUMBERS}test_skipped_steps_are_counted_on_over_a_stop"
ON_ONE = f"{NUMBERS}test_a_loss_that_is_not_finite_on_one_process_skips_the_step_on_all"
SCALER = "test_optimization.py::test_a_loss_scaler_halves_its_scale_after_an_overflow"
EMPTY = f"{NUMBERS}test_a_batch_without_a_valid_pixel_teaches_nothing_and_harms_nothing"
NOTHING = "test_reliability.py::test_losses_of_no_valid_pixel_are_exactly_nothing"
SURE = f"{NUMBERS}test_pseudo_labels_that_are_all_sure_or_all_unsure_give_finite_losses"
NO_TOKENS = f"{NUMBERS}test_tokens_that_are_all_zero_or_all_dropped_give_a_finite_loss"
ZEROS = f"{FUZZ}test_a_jpeg_filled_up_with_zeros_is_refused"
CUT_OFF = f"{FUZZ}test_a_picture_cut_off_anywhere_is_refused"
NAMED = f"{LOADING}test_a_broken_frame_is_an_error_that_names_it"
REPLACED = f"{LOADING}test_a_broken_frame_is_replaced_and_counted_when_asked_always_by_the_same"
MANY_BROKEN = f"{LOADING}test_a_dataset_with_many_broken_frames_is_refused_even_then"
FLIPPED = f"{FILES}test_a_flipped_bit_never_becomes_another_depth"
PICTURE = f"{FILES}test_a_picture_of_depth_is_not_depth"
BOMB = f"{FILES}test_a_decompression_bomb_is_refused_before_it_unpacks"
UNIT = "test_prepare_checks.py::test_depth_in_another_unit_is_flagged"
NO_DEPTH = "test_prepare_checks.py::test_depth_that_is_no_depth_is_flagged"
MISSING = f"{SPLITS}test_missing_files_are_counted_and_the_first_five_named"
LEAVES = f"{SPLITS}test_a_path_that_leaves_the_root_is_refused"
LINKS = f"{SPLITS}test_links_of_the_user_are_followed_but_never_back_out_of_the_root"
LIST = f"{FUZZ}test_a_list_is_read_to_paths_inside_the_root_or_refused_by_name"
SHARED_FRAME = f"{LEAKAGE}test_a_shared_frame_is_an_overlap_unless_frames_may_be_shared"
SHARED_DRIVE = f"{LEAKAGE}test_a_shared_drive_is_an_overlap_unless_scenes_may_be_shared"
TEST_FRAMES = "test_evaluate.py::test_training_does_not_open_test_frames"

FINITE = [
    Row(
        30, "a loss that is NaN in one step",
        "the step is skipped: weights, average and optimiser stay; counted, its frames named",
        [NOT_FINITE, "test_optimization.py::test_a_step_that_is_not_finite_touches_nothing",
         "test_optimization.py::test_after_a_bad_step_the_next_good_one_is_as_if_it_had_never_been",
         "test_optimization.py::test_an_average_takes_nothing_in_of_a_step_that_was_not_made"],
        [
            Guard(
                "utils/optimization.py", "None, (~finite).float()",
                "None, torch.zeros_like(norm)", f"{NOT_FINITE}[train.py]",
            ),
            Guard(
                "utils/averaging.py", "            if finite:\n", "            if True:\n",
                f"{NOT_FINITE}[consistency_train.py]",
            ),
        ],
    ),
    Row(
        31, "losses that are NaN several steps in a row",
        "after train.max_skipped_steps of them the run ends, exit code 3; the last good checkpoint "
        "stays",
        [IN_A_ROW, "test_scripts.py::test_divergence_ends_the_run_with_exit_code_3"],
        [
            Guard(
                "session.py",
                "progress.skipped_in_a_row >= self.cfg.train.max_skipped_steps", "False", IN_A_ROW,
            ),
            Guard("utils/run_progress.py", "cls(**(saved or {}))", "cls()", IN_A_ROW),
        ],
    ),
    Row(
        32, "a gradient that overflows in fp16", "the scale is halved, the step skipped",
        [SCALER],
        [
            Guard("utils/optimization.py", "    scaler.update()\n", "", SCALER),
        ],
    ),
    Row(
        33, "a loss that is NaN on one process of several",
        "all skip the step; that process names its frames", [ON_ONE],
        [
            Guard(
                "utils/optimization.py", "None, (~finite).float()", "None, torch.zeros_like(norm)",
                ON_ONE,
            ),
            Guard("session.py", "everywhere=not result.own_finite", "everywhere=False", ON_ONE),
        ],
    ),
    Row(
        34, "a batch without one valid depth pixel", "its loss is 0; nothing is NaN or skipped",
        [EMPTY, NOTHING,
         f"{NUMBERS}test_no_valid_pixel_in_a_pass_but_some_in_another_is_still_a_mean_over_all"],
        [
            Guard("utils/processes.py", "value.clamp(min=1)", "value", NOTHING),
            Guard("losses/supervised.py", " + 2.0**-26).sqrt()", ").sqrt()", EMPTY),
        ],
    ),
    Row(
        35, "pseudo labels that are all sure, or all unsure",
        "finite losses; exactly 0 where nothing counts", [SURE, NO_TOKENS],
        [
            Guard(
                "losses/consistency.py", "keepdim=True).clamp(min=1e-6)", "keepdim=True)",
                f"{SURE}[80.0]",
            ),
            Guard("losses/consistency.py", "encoded.sum().clamp(min=1)", "encoded.sum()",
                  NO_TOKENS),
        ],
    ),
]  # fmt: skip
PICTURES = [
    Row(
        36, "a picture that is cut off or damaged",
        "an error that names it; with train.on_bad_sample=skip another frame, always the same one, "
        "and counted",
        [f"{FILES}test_a_truncated_picture_is_refused_by_name", CUT_OFF, ZEROS, NAMED, REPLACED,
         MANY_BROKEN,
         "test_scripts.py::"
         "test_a_damaged_picture_stops_the_run_by_name_or_is_replaced_and_counted"],
        [
            Guard(
                "datasets/frame.py",
                'elif image.format in ("JPEG", "MPO") and not _jpeg_ends(path):', "elif False:",
                ZEROS,
            ),
            Guard(
                "datasets/frame.py", "import warnings\nfrom collections",
                "import warnings\nfrom PIL import ImageFile\n"
                "ImageFile.LOAD_TRUNCATED_IMAGES = True\nfrom collections", CUT_OFF,
            ),
            Guard(
                "datasets/loading.py", '"sample_number": number, "replaced": 1}',
                '"sample_number": number, "replaced": 0}', REPLACED,
            ),
            Guard(
                "datasets/loading.py",
                "            if self.replacements is None:\n                raise\n",
                "            if self.replacements is None:\n"
                "                self.replacements = range(len(self.frames.frame_ids))\n", NAMED,
            ),
            Guard("datasets/loading.py", "if len(self.broken) > allowed:", "if False:",
                  MANY_BROKEN),
        ],
    ),
    Row(
        37, "depth that is cut off, damaged, empty, 8-bit, a palette or a colour picture",
        "refused by name with the reason; never another depth",
        [f"{FILES}test_truncated_depth_is_refused_by_name", FLIPPED, PICTURE,
         f"{FILES}test_an_empty_or_html_file_is_refused_as_depth_and_as_picture",
         f"{FUZZ}test_a_damaged_png_is_itself_or_refused"],
        [
            Guard("datasets/frame.py", "            image.verify()  #", "            pass  #", test)
            for test in (FLIPPED, f"{FUZZ}test_a_damaged_png_is_itself_or_refused")
        ] + [
            Guard(
                "datasets/frame.py", 'image.format != "PNG" or image.mode not in DEPTH_MODES',
                'image.format != "PNG"', PICTURE,
            ),
        ],
    ),
    Row(
        38, "a small PNG that says it is gigabytes of pixels", "refused before it is unpacked",
        [BOMB],
        [
            Guard("datasets/frame.py", "if image.width * image.height > MAX_PIXELS:", "if False:",
                  BOMB),
        ],
    ),
    Row(
        39, "depth in another unit than the dataset says",
        "`python -m datasets.prepare` flags the median depth and names the unit that would fit",
        [UNIT, NO_DEPTH,
         "test_prepare_checks.py::"
         "test_indoor_millimetres_read_as_kitti_are_flagged_and_millimetres_are_not"],
        [
            Guard(
                "datasets/plausible.py", "    if not low <= typical <= high:", "    if False:", UNIT
            ),
        ],
    ),
    Row(
        40, "a file of a list that is not there",
        "found at the start: their number and the first five by name",
        [MISSING, f"{FILES}test_a_missing_kitti_file_is_found_before_training",
         "test_scripts.py::test_a_missing_file_is_found_before_the_first_step"],
        [
            Guard("datasets/splits.py", "elif not os.path.isfile(paths[role]):", "elif False:",
                  MISSING),
            Guard("datasets/splits.py", "NUM_NAMED = 5  #", "NUM_NAMED = 6  #", MISSING),
        ],
    ),
    Row(
        41, "a list whose paths lead out of the dataset's root: .., absolute, NUL, a link back",
        "refused with file and line; links that the user made are followed",
        [LEAVES, LINKS, LIST],
        [
            Guard("datasets/splits.py", ' or ".." in parts', "", test) for test in (LEAVES, LIST)
        ] + [
            Guard(
                "datasets/splits.py", "    return Path(root, *parts)\n",
                "    if Path(root, *parts).is_symlink():\n"
                "        raise DataError('link')\n    return Path(root, *parts)\n", LINKS,
            ),
        ],
    ),
    Row(
        42, "frames or drives in two lists that must be apart; test frames in training",
        "an error, unless validation.may_share or unlabeled.may_share says so; test frames never",
        [SHARED_FRAME, SHARED_DRIVE,
         f"{LEAKAGE}test_frames_of_a_test_drive_are_refused_for_training",
         f"{LEAKAGE}test_unlabelled_frames_may_not_be_validation_frames_unless_that_is_said",
         TEST_FRAMES],
        [
            Guard("datasets/leakage.py", "    if frames:\n        raise",
                  "    if False:\n        raise", SHARED_FRAME),
        ],
    ),
]  # fmt: skip
ROWS = [*FINITE, *PICTURES]
