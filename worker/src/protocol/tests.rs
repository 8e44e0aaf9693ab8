use super::*;

fn walk(protocol: &mut Protocol, answers: &[Answer]) -> Vec<Ask> {
    let mut asks = vec![protocol.start()];
    asks.extend(answers.iter().map(|answer| protocol.next(*answer)));
    asks
}

fn trial(redelivered: bool, attempts: Attempts) -> Protocol {
    Protocol::new(Kind::Trial, 0, redelivered, attempts, Budgets::default())
}

#[test]
fn a_trial_looks_computes_commits_publishes_and_acks_in_this_order() {
    let answers = [
        Answer::Absent,
        Answer::Absent,
        Answer::Absent,
        Answer::Computed(Computed::Finished),
        Answer::Committed,
        Answer::Done,
    ];
    let asks = walk(&mut trial(false, Attempts::default()), &answers);
    let expected = [
        Ask::LookCancelled,
        Ask::LookResult,
        Ask::LookCheckpoint,
        Ask::Compute,
        Ask::CommitResult,
        Ask::PublishResult,
        Ask::Ack,
    ];
    assert_eq!(asks, expected);
}

#[test]
fn a_fresh_batch_looks_for_nothing_but_the_cancel_marker() {
    let mut batch = Protocol::new(Kind::Batch, 0, false, Attempts::default(), Budgets::default());
    assert_eq!(walk(&mut batch, &[Answer::Absent]), [Ask::LookCancelled, Ask::Compute]);
}

#[test]
fn a_fresh_batch_of_a_run_with_cancelled_jobs_looks_for_its_result() {
    let mut batch = Protocol::new(Kind::Batch, 0, false, Attempts::default(), Budgets::default());
    let asks = walk(&mut batch, &[Answer::LookFirst, Answer::Result(Found::Settled), Answer::Done]);
    assert_eq!(asks, [Ask::LookCancelled, Ask::LookResult, Ask::PublishResult, Ask::Ack]);
}

#[test]
fn a_job_that_is_cancelled_while_it_is_computed_ends_with_the_result_that_stands_there() {
    let answers = [Answer::Absent, Answer::Absent, Answer::Absent, Answer::Result(Found::Settled), Answer::Done];
    assert_eq!(walk(&mut trial(false, Attempts::default()), &answers)[4..], [Ask::PublishResult, Ask::Ack]);
}

#[test]
fn a_found_result_is_published_again_and_acked() {
    let answers = [Answer::Absent, Answer::Result(Found::Settled), Answer::Done];
    let asks = walk(&mut trial(true, Attempts::default()), &answers);
    assert_eq!(asks[2..], [Ask::PublishResult, Ask::Ack]);
}

#[test]
fn only_the_delivery_that_the_checkpoint_names_goes_on() {
    for (mine, next) in [(true, Ask::PublishNextSlice), (false, Ask::Ack)] {
        let found =
            walk(&mut trial(true, Attempts::default()), &[Answer::Absent, Answer::Absent, Answer::Checkpoint { mine }]);
        assert_eq!(found[3], next, "found, mine: {mine}");
        let answers = [
            Answer::Absent,
            Answer::Absent,
            Answer::Absent,
            Answer::Computed(Computed::Paused),
            Answer::Checkpoint { mine },
        ];
        let committed = walk(&mut trial(false, Attempts::default()), &answers);
        assert_eq!(committed[4..], [Ask::CommitCheckpoint, next], "committed, mine: {mine}");
    }
}

#[test]
fn a_redelivery_counts_an_attempt_before_it_computes() {
    let answers = [Answer::Absent, Answer::Absent, Answer::Absent, Answer::Preemptions(1)];
    let asks = walk(&mut trial(true, Attempts::default()), &answers);
    assert_eq!(asks[3..], [Ask::RecordAttempt, Ask::Compute]);
    let spent = Answer::Preemptions(Budgets::default().preemptions + 1);
    let answers =
        [Answer::Absent, Answer::Absent, Answer::Absent, spent, Answer::Committed, Answer::Done, Answer::Done];
    let asks = walk(&mut trial(true, Attempts::default()), &answers);
    assert_eq!(asks[3..], [Ask::RecordAttempt, Ask::CommitResult, Ask::PublishResult, Ask::Bury(None), Ask::Ack]);
}

#[test]
fn budgets_are_counted_apart() {
    let attempts = Attempts { errors: 2, crashes: 0, preemptions: 0 };
    let computed = |computed| [Answer::Absent, Answer::Absent, Answer::Absent, Answer::Computed(computed)];
    let last = |computed_as| *walk(&mut trial(false, attempts), &computed(computed_as)).last().expect("some");
    assert_eq!(last(Computed::Error), Ask::CommitResult);
    assert_eq!(last(Computed::Crash), Ask::PublishRetry(Spent::Crash));
}

#[test]
fn a_burial_tells_the_attempt_that_was_the_last_also_of_a_result_that_was_found() {
    let attempts = Attempts { errors: 2, crashes: 2, preemptions: 0 };
    for (computed, spent) in [(Computed::Error, Spent::Error), (Computed::Crash, Spent::Crash)] {
        let answers = [
            Answer::Absent,
            Answer::Absent,
            Answer::Absent,
            Answer::Computed(computed),
            Answer::Committed,
            Answer::Done,
        ];
        assert_eq!(walk(&mut trial(false, attempts), &answers).last(), Some(&Ask::Bury(Some(spent))));
        let found = [Answer::Absent, Answer::Result(Found::Buried(Some(spent))), Answer::Done];
        assert_eq!(walk(&mut trial(true, attempts), &found).last(), Some(&Ask::Bury(Some(spent))));
    }
}

#[test]
fn what_cannot_be_used_fails_the_job_unless_somebody_has_committed_a_result() {
    for at in 0..4 {
        let mut answers = vec![Answer::Absent; at];
        answers.push(Answer::Unusable);
        if at == 1 {
            assert_eq!(walk(&mut trial(false, Attempts::default()), &answers)[2..], [Ask::Bury(None)]);
            continue;
        }
        assert_eq!(walk(&mut trial(false, Attempts::default()), &answers).last(), Some(&Ask::CommitResult));
        answers.extend([Answer::Result(Found::Settled), Answer::Done]);
        let ends = walk(&mut trial(false, Attempts::default()), &answers);
        assert_eq!(ends[ends.len() - 2..], [Ask::PublishResult, Ask::Ack], "unusable: {:?}", ends[at]);
    }
}

#[test]
fn a_stop_passes_on_and_a_cancel_acks() {
    let computed = |computed| [Answer::Absent, Answer::Absent, Answer::Absent, Answer::Computed(computed)];
    let last = |how| *walk(&mut trial(false, Attempts::default()), &computed(how)).last().expect("some");
    assert_eq!(last(Computed::Stopped), Ask::PublishAgain);
    assert_eq!(last(Computed::Cancelled), Ask::Ack);
    assert_eq!(walk(&mut trial(true, Attempts::default()), &[Answer::Cancelled]).last(), Some(&Ask::Ack));
}

#[test]
fn a_worker_that_cannot_go_on_passes_the_letter_on() {
    let mut fresh = trial(false, Attempts::default());
    assert_eq!(fresh.give_up(), Ask::PublishAgain, "also one that was not begun");
    fresh.start();
    assert_eq!(fresh.give_up(), Ask::PublishAgain);
    assert_eq!(fresh.next(Answer::Done), Ask::Ack);
}

#[test]
fn the_mark_of_a_lost_worker_stays_until_it_is_counted() {
    let given_up_after = |answers: &[Answer]| {
        let mut again = trial(true, Attempts::default());
        let asked = *walk(&mut again, answers).last().expect("some");
        (asked, again.give_up())
    };
    let looks = [Answer::Absent, Answer::Absent, Answer::Absent, Answer::Preemptions(1)];
    assert_eq!(trial(true, Attempts::default()).give_up(), Ask::Release);
    assert_eq!(given_up_after(&looks[..2]), (Ask::LookCheckpoint, Ask::Release));
    // It may have been: twice would be a charge that nobody caused.
    assert_eq!(given_up_after(&looks[..3]), (Ask::RecordAttempt, Ask::PublishAgain));
    assert_eq!(given_up_after(&looks), (Ask::Compute, Ask::PublishAgain));
}

#[test]
fn a_slice_whose_beginning_is_gone_follows_whoever_was_quicker() {
    let to = |answer| {
        let mut trial = Protocol::new(Kind::Trial, 3, false, Attempts::default(), Budgets::default());
        *walk(&mut trial, &[Answer::Absent, Answer::Absent, Answer::Absent, answer]).last().expect("some")
    };
    assert_eq!(to(Answer::Checkpoint { mine: false }), Ask::Ack);
    assert_eq!(to(Answer::Checkpoint { mine: true }), Ask::PublishNextSlice);
    assert_eq!(to(Answer::Result(Found::Settled)), Ask::PublishResult);
}

#[test]
fn a_mistake_is_buried_and_a_diverged_trial_is_not() {
    let answers = |computed| {
        [Answer::Absent, Answer::Absent, Answer::Absent, Answer::Computed(computed), Answer::Committed, Answer::Done]
    };
    let last = |how| *walk(&mut trial(false, Attempts::default()), &answers(how)).last().expect("some");
    assert_eq!(last(Computed::Mistaken), Ask::Bury(None));
    assert_eq!(last(Computed::Hopeless), Ask::Ack);
}
