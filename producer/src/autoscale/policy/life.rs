//! Workers of ours that come, go, die, or hang.

use std::time::Duration;

use shared::contract::Spare;

use super::crew::{ENDS_WITHIN, GONE, LISTED_WITHIN, Mate, SAY_EVERY, SAYS, Stage};
use super::decision::{Action, Cause, Decision, Member, State, said};
use super::{Policy, start_limit};

/// Others' workers that are not heard for so long are no more.
const FORGOTTEN: Duration = Duration::from_secs(600);

impl Policy {
    /// Takes note of who is there: finds those from before, puts away those that have ended.
    pub(super) fn follow(&mut self, now: Duration, members: &[Member], decisions: &mut Vec<Decision>) {
        let mut failed = vec![false; self.pools.len()];
        for member in members {
            let pool = self.pools.iter().position(|state| state.pool.name == member.pool);
            let known = self.crew.contains_key(&member.name);
            match &member.state {
                State::Runs if known => {}
                State::Runs => {
                    self.crew.insert(member.name.clone(), Mate::new(pool, now));
                    let why = format!("it runs already, in the pool {}", member.pool);
                    decisions.push(Decision {
                        action: Action::Adopt { worker: member.name.clone() },
                        cause: Cause::Found,
                        why,
                    });
                }
                State::Ended { well, how } => {
                    let mate = self.crew.remove(&member.name);
                    self.roster.0.remove(&member.name);
                    let was_told = mate.as_ref().is_none_or(|mate| !mate.is_up());
                    let died = !well && !was_told;
                    if let Some(pool) = pool.filter(|_| died) {
                        failed[pool] = true;
                    }
                    let cause = if died { Cause::Died } else { Cause::Left };
                    let why = if died { format!("it died: {how}") } else { format!("it has ended: {how}") };
                    decisions.push(Decision { action: Action::Remove { worker: member.name.clone() }, cause, why });
                    continue;
                }
            }
            if let Some(mate) = self.crew.get_mut(&member.name) {
                mate.listed = true;
            }
        }
        let is_listed = |name: &String| members.iter().any(|member| member.name == *name);
        let gone: Vec<String> = self
            .crew
            .iter()
            .filter(|(name, mate)| !is_listed(name) && (mate.listed || now.saturating_sub(mate.since) > LISTED_WITHIN))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.roster.0.remove(&name);
            let Some(mate) = self.crew.remove(&name) else { continue };
            if let Some(pool) = mate.pool.filter(|_| mate.is_up()) {
                failed[pool] = true;
                tracing::warn!(worker = name, "has gone without a trace");
            }
        }
        // Ten that die at once are one accident.
        self.pools.iter_mut().zip(failed).filter(|(_, failed)| *failed).for_each(|(state, _)| state.fail(now));
    }

    /// Says the word again where there was no answer, and ends what hangs.
    pub(super) fn attend(&mut self, now: Duration, decisions: &mut Vec<Decision>) {
        self.roster.0.retain(|name, heard| self.crew.contains_key(name) || now.saturating_sub(heard.at) < FORGOTTEN);
        let mut failed = vec![false; self.pools.len()];
        for (name, mate) in &mut self.crew {
            let silence = self.roster.0.get(name).map(|heard| now.saturating_sub(heard.at));
            let past = |since: Duration| now.saturating_sub(since);
            match mate.stage {
                Stage::Asked { spare, said: at, times } if past(at) >= SAY_EVERY => {
                    if times >= SAYS {
                        self.answers.unanswered += 1;
                        mate.stayed = Some(now);
                        mate.stage = Stage::Up;
                    } else {
                        mate.stage = Stage::Asked { spare, said: now, times: times + 1 };
                        let why = format!("no answer for {}: asked again", said(past(at)));
                        decisions.push(ask(name, spare, why));
                    }
                }
                Stage::Leaving { since, .. } if past(since) > ENDS_WITHIN => {
                    mate.stage = Stage::Stopped { since: now };
                    let why = format!("it has been leaving for {}, and still runs", said(past(since)));
                    decisions.push(stop(name, Cause::Hung, why));
                }
                Stage::Stopped { since } if past(since) > ENDS_WITHIN => {
                    mate.stage = Stage::Killed;
                    let why = format!("it was told to end {} ago, and still runs", said(past(since)));
                    let action = Action::Kill { worker: name.clone() };
                    decisions.push(Decision { action, cause: Cause::Hung, why });
                }
                Stage::Up => {
                    let limit = start_limit(&self.pools, mate);
                    let (cause, why) = match silence {
                        Some(silence) if silence > GONE => {
                            (Cause::Silent, format!("it was not heard for {}", said(silence)))
                        }
                        // One that was heard and is in nobody's roster has said its last word, and ends.
                        None if !mate.heard && past(mate.since) > limit => {
                            (Cause::Mute, format!("it has not said a word for {}", said(past(mate.since))))
                        }
                        _ => continue,
                    };
                    mate.stage = Stage::Stopped { since: now };
                    if let Some(pool) = mate.pool {
                        failed[pool] = true;
                    }
                    decisions.push(stop(name, cause, why));
                }
                _ => {}
            }
        }
        self.pools.iter_mut().zip(failed).filter(|(_, failed)| *failed).for_each(|(state, _)| state.fail(now));
    }
}

pub(super) fn ask(worker: &str, spare: Spare, why: String) -> Decision {
    Decision { action: Action::Ask { worker: worker.into(), spare }, cause: Cause::Surplus, why }
}

fn stop(worker: &str, cause: Cause, why: String) -> Decision {
    Decision { action: Action::Stop { worker: worker.into() }, cause, why }
}
