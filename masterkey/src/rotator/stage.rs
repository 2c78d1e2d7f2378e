//! Many hosts at once, and never more than may be.

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rand_core::CryptoRng;
use toehold_core::{Account, AuditEvent, AuditSink, Connector, Store, Timer};

use super::Rotator;
use super::host_run::{Errand, HostVerdict};
use super::lead::{Lead, Saved};
use super::members::{Member, Members};
use crate::error::{RotationError, describe};
use crate::fleet::FleetStep;
use crate::observer::{Observer, Progress};
use crate::vault::KeyVault;
use crate::wait::within;

/// How a wave ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaveEnd {
    /// Every host that was begun has come to an end.
    Over,
    /// The operator wants out.
    Leaving,
    /// Somebody else has the lead.
    LetGo,
}

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: KeyVault> Rotator<S, C, T, A, V> {
    /// Leads these hosts, as many at once as may be. Once the fleet has to stop no further one is begun, and those that were
    /// are seen to their end.
    pub(super) async fn wave<R: CryptoRng + Send, O: Observer>(
        &self,
        lead: &mut Lead,
        members: &mut Members,
        errand: &Errand<'_, '_, R, O>,
        accounts: Vec<Account>,
    ) -> Result<WaveEnd, RotationError> {
        let mut waiting = accounts.into_iter();
        let mut running = FuturesUnordered::new();
        // Of those that are not running.
        let mut tally = members.tally();
        let mut end = WaveEnd::Over;
        let mut going = true;
        loop {
            while going && running.len() < self.pace.concurrency.max(1) {
                if errand.observer.is_leaving() {
                    (going, end) = (false, WaveEnd::Leaving);
                    break;
                }
                let Some(account) = waiting.next() else { break };
                let Some(member) = members.0.remove(&account) else { continue };
                tally.remove(&member);
                running.push(self.one(errand, account, member));
            }
            // However long all of them hang, the lead says that it is alive.
            let ended = within(running.next(), self.timer.sleep_until(self.next_beat(lead))).await;
            let mut fenced = false;
            match ended {
                None => {}
                Some(None) => return Ok(end),
                Some(Some((account, member, verdict))) => {
                    if let HostVerdict::Failed(reason) = &verdict {
                        self.audit_failure(lead, &account, reason, errand.observer).await;
                    }
                    tally.add(&member);
                    members.0.insert(account, member);
                    fenced = verdict == HostVerdict::Fenced;
                }
            }
            if fenced || self.beat(lead).await? == Saved::LetGo {
                (going, end) = (false, WaveEnd::LetGo);
            }
            let next = tally.view(&lead.record.body).next();
            going &= !matches!(next, FleetStep::TurnBack(_) | FleetStep::Stop(_));
        }
    }

    async fn one<R: CryptoRng + Send, O: Observer>(
        &self,
        errand: &Errand<'_, '_, R, O>,
        account: Account,
        mut member: Member,
    ) -> (Account, Member, HostVerdict) {
        let verdict = self.lead_host(errand, &mut member).await;
        (account, member, verdict)
    }

    pub(super) async fn audit_failure<O: Observer>(&self, lead: &Lead, account: &Account, reason: &str, observer: &O) {
        let event = AuditEvent::new(self.timer.now(), "rotation.host_quarantined", account.to_string())
            .with("rotation", lead.record.body.number.to_string())
            .with("reason", reason.to_owned());
        if let Err(error) = self.audit.record(event).await {
            observer.progress(Progress::Warning(format!("not on the audit record: {}", describe(&error))));
        }
    }
}
