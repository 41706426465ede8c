"""Test set-up: quiet, seeded, and compiled in less time."""

import fnmatch
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("XLA_FLAGS", "--xla_llvm_disable_expensive_passes=true")  # what is small is compiled sooner

import keras
import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.apps.contract", "tests.apps.helpers")  # that they say what was not equal

EXAMPLES = 8 if keras.backend.backend() == "tensorflow" else 4  # each shape is compiled anew, on JAX slowly
settings.register_profile("unfold", deadline=None, max_examples=EXAMPLES, derandomize=True)
settings.load_profile("unfold")


# What `make test` leaves to `make test-all`, as it takes long, and what of its kind stays in `make test`. A pattern matches the
# end of a test's name; the first that matches counts, and `None` keeps a test.
SLOW = {
    "test_music.py::test_a_killed_run_ends_as_one_not_killed": None,
    "test_a_killed_run_ends_as_one_not_killed": "that of the music generator: the checkpoints are the same",
    "test_a_run_begins_with_the_weights_of_another*": "its flags, its weights and its vocabulary, in `test_common.py`",
    "test_a_run_in_bfloat16_learns_and_is_exported": "a step in bfloat16",
    "test_a_step_that_xla_compiles_gives_the_same_loss*": "what `fit` moves, with XLA",
    "test_a_step_has_only_operations_that_a_gpu_has_and_repeats[[]sampled_language_model[]]": None,
    "test_a_step_has_only_operations_that_a_gpu_has_and_repeats*": "that of the language model",
    "test_a_frozen_backbone_and_then_its_last_blocks_train": "the parts of an encoder, and what `fit` moves",
    "test_the_phases_begin_with_runs_that_had_those_before": "what `fit` moves; `copy_weights`",
    "test_a_run_killed_while_it_fine_tunes_ends_as_one_not_killed": "a run that is killed",
    "test_a_run_killed_while_it_learns_by_reward_ends_as_one_not_killed": "a run that is killed, and what `fit` learns by reward",
    "test_a_run_at_a_url_goes_on_on_another_machine*": "pushes, fetches and exports, in `test_remote.py`",
    "test_both_ways_write_equal_files[[]translation-2[]]": "the pipeline in one process; another one in `make test-all`",
    "test_a_process_of_beam_that_is_killed_is_told*": "an error of a worker",
    "test_prepare_captions.py::test_several_processes_write_what_one_does": "one process; that of pairs",
    "test_prepare_captions.py::*[[]subwords[]]": "that with words",
    "test_prepared_data_train_to_the_weights_of_the_texts": "its batches are those of the texts",
    "test_the_other_parts_train_and_export_too": "what `fit` moves with each part",
    "test_subwords_and_last_state_export_too_and_show_no_attention": "a model without attention shows none; the first export",
    "test_a_model_of_both_directions_and_pieces_trains_and_is_exported": "the backward model; pieces, token by token",
    "test_the_baseline_trains_and_is_exported_too": "a bag of words knows no order, and shows no attention",
    "test_the_sutskever_preset_builds_and_takes_a_step": "what `fit` moves with each part; the presets' own test",
    "test_ten_steps_of_two_workers_are_those_of_one_process": "how workers share rows and weigh them",
    "test_a_lost_worker_is_told_and_a_resumed_run_goes_on_from_the_last_checkpoint": "a run that is killed and resumed",
    "test_a_run_whose_batches_a_service_prepares_resumes": "a run that is killed; the service's own tests",
    "test_a_run_ends_when_its_data_service_does": "an address where no service answers",
    "test_service.py::test_two_workers_give_each_example_once_an_epoch_and_a_lost_one_loses_none_for_good": "the same",
    "test_service.py::test_a_server_needs_its_role": "",
    "test_many_clients_get_the_answers_of_one": "an answer doesn't depend on its batch",
    "test_the_commands_run_one_after_the_other*": "the real parsers",
    "test_networks_are_written_and_do_what_the_model_does[[]sentiment_classification-*": None,
    "test_networks_are_written_and_do_what_the_model_does*": "those of the classifier",
    "test_the_command_exports_again_and_refuses_what_is_no_run": "what training exports",
    "test_a_run_given_twice_is_exported_as_the_run_alone*": "a model with itself in the searches; the training rows",
    "test_a_killed_export_leaves_no_version": "an export that fails",
    "test_examples.py::*": "what the signatures take and give",
    "test_c_gets_the_answers_that_python_gets[[]sentiment_classification[]]": None,
    "test_without_python.py::*": "the classifier from C",
    "test_the_export_translates_without_this_project": None,
    "test_the_export_*_without_this_project": "that of the translator",
    "test_a_port_in_use_is_told_in_a_line": "",
    "apps/*test_fit_moves_every_weight_and_the_model_reloads[[]True-options[1-9][]]": "the same without XLA",
    "test_own_midi_files_train_and_play_on[[]independent[]]": "that with `nade`",
    "test_contract.py::test_fit_moves_every_weight_and_lowers_the_loss[[]*-[LB]*": None,
    "test_contract.py::test_fit_moves_every_weight_and_lowers_the_loss*": "that of LSTM and Bidirectional",
    "test_reload_in_a_fresh_process": "reloading in this process",
    "test_fit_under_keras_masks_moves_every_weight_and_reloads[[]False-*": "the same with XLA",
    "test_blocks_give_what_all_scores_at_once_give[[]*-False[]]": "the same with XLA",
    "test_many_lengths_share_few_compiled_loops[[]Bidirectional[]]": "that of the GRU",
    "test_another_backend_is_refused_with_a_remedy": "",
    "test_gradient_penalties_equal_those_of_keras[[]*-GRU[]]": "that of the LSTM",
    "test_second_derivatives_against_differences[[]True-*": "the same without XLA",
    "test_a_training_call_inside_a_branch[[]GRU-*": "that of Bidirectional",
    "test_cudnn.py::test_outputs_*[[]False-LSTM[]]": "the other direction",
    "test_cudnn.py::test_outputs_*[[]True-GRU[]]": "the other direction",
}


def pytest_collection_modifyitems(items):
    for item in items:
        matching = [pattern for pattern in SLOW if fnmatch.fnmatchcase(item.nodeid, f"*{pattern}")]
        if matching and SLOW[matching[0]] is not None:
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(1)
