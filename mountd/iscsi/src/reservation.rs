//! Who has reserved a logical unit (SPC-4, "Reservations"): state and rules, without waiting.

use std::sync::Arc;

use sluice_scsi::{
    Command, OutParameters, PersistentIn, PersistentOut, Power, ReservationType, Sense,
    StatusEntry, full_status, keys, report_capabilities, reservation,
};

/// Registrations of one logical unit: many times the nodes of any cluster.
const MOST: usize = 256;

/// An initiator port: its name and session identifier.
pub(crate) type Port = Arc<str>;

/// Why a command about reservations is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Conflict,
    Sense(Sense),
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

/// What others are to be told, and who lost a registration.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    pub(crate) notices: Vec<(Port, Sense)>,
    pub(crate) removed: Vec<Port>,
}

/// The reservations of a logical unit.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    generation: u32,
    registrations: Vec<(Port, u64)>,
    held: Option<(Port, ReservationType)>,
    /// By RESERVE, the older kind that ends with its session.
    reserved: Option<Port>,
}

impl Reservations {
    /// Whether `port` may do `command`.
    pub(crate) fn allow(&self, port: &Port, command: &Command) -> bool {
        if let Some(owner) = &self.reserved
            && owner != port
        {
            return matches!(command, Command::Release | Command::PreventAllow { prevent: false })
                || always_allowed(command);
        }
        let legacy = matches!(command, Command::Reserve | Command::Release);
        if legacy {
            return self.registrations.is_empty();
        }
        let Some((_, kind)) = self.held else { return true };
        if self.is_holder(port) || (kind.admits_registrants() && self.key_of(port).is_some()) {
            return true;
        }
        match command {
            // These have rules of their own.
            Command::PersistentIn { .. } | Command::PersistentOut { .. } => true,
            Command::TestUnitReady
            | Command::ReadCapacity10
            | Command::ReadCapacity16 { .. }
            | Command::ReportOpcodes(_)
            | Command::ReportFunctions { .. }
            | Command::PreventAllow { prevent: false }
            | Command::StartStop(Power::Start) => true,
            Command::Read { .. }
            | Command::Verify { .. }
            | Command::Prefetch { .. }
            | Command::GetLbaStatus { .. }
            | Command::ModeSense(_) => !kind.excludes_reading(),
            other => always_allowed(other),
        }
    }

    /// RESERVE.
    pub(crate) fn reserve_unit(&mut self, port: &Port) {
        self.reserved = Some(Arc::clone(port));
    }

    /// RELEASE, or the end of a session.
    pub(crate) fn release_unit(&mut self, port: &Port) {
        if self.reserved.as_ref() == Some(port) {
            self.reserved = None;
        }
    }

    /// What a reset ends.
    pub(crate) fn reset(&mut self) {
        self.reserved = None;
    }

    /// PERSISTENT RESERVE IN.
    pub(crate) fn report(&self, action: PersistentIn) -> Vec<u8> {
        let generation = self.generation;
        match action {
            PersistentIn::Keys => {
                let all: Vec<u64> = self.registrations.iter().map(|(_, key)| *key).collect();
                keys(generation, &all)
            }
            PersistentIn::Reservation => {
                let held = self.held.as_ref().map(|(port, kind)| {
                    let key = if kind.is_held_by_all() { None } else { self.key_of(port) };
                    (key.unwrap_or(0), *kind)
                });
                reservation(generation, held)
            }
            PersistentIn::Capabilities => report_capabilities(),
            PersistentIn::FullStatus => {
                let entries = self.registrations.iter().map(|(port, key)| StatusEntry {
                    key: *key,
                    holds: self.held.as_ref().filter(|_| self.is_holder(port)).map(|held| held.1),
                    initiator: port.to_string(),
                });
                full_status(generation, &entries.collect::<Vec<_>>())
            }
        }
    }

    /// PERSISTENT RESERVE OUT.
    pub(crate) fn change(
        &mut self,
        port: &Port,
        action: PersistentOut,
        parameters: OutParameters,
    ) -> Result<Effects, Refusal> {
        match action {
            PersistentOut::Register => {
                if self.key_of(port).unwrap_or(0) != parameters.key {
                    return Err(Refusal::Conflict);
                }
                return self.register(port, parameters.action_key);
            }
            PersistentOut::RegisterAndIgnore => return self.register(port, parameters.action_key),
            _ => {}
        }
        if self.key_of(port) != Some(parameters.key) {
            return Err(Refusal::Conflict);
        }
        match action {
            PersistentOut::Reserve(kind) => self.reserve(port, kind),
            PersistentOut::Release(kind) => self.release(port, kind),
            PersistentOut::Clear => Ok(self.clear(port)),
            PersistentOut::Preempt(kind) | PersistentOut::PreemptAndAbort(kind) => {
                self.preempt(port, parameters.action_key, kind)
            }
            PersistentOut::Register | PersistentOut::RegisterAndIgnore => Ok(Effects::default()),
        }
    }

    fn key_of(&self, port: &Port) -> Option<u64> {
        self.registrations.iter().find(|(other, _)| other == port).map(|(_, key)| *key)
    }

    fn is_holder(&self, port: &Port) -> bool {
        match &self.held {
            Some((_, kind)) if kind.is_held_by_all() => self.key_of(port).is_some(),
            Some((holder, _)) => holder == port,
            None => false,
        }
    }

    fn register(&mut self, port: &Port, key: u64) -> Result<Effects, Refusal> {
        let full = self.registrations.len() >= MOST;
        let present = self.registrations.iter_mut().find(|(other, _)| other == port);
        let mut effects = Effects::default();
        match (present, key) {
            (None, 0) => {}
            (Some(_), 0) => effects.notices = self.unregister(port),
            (Some(registration), key) => registration.1 = key,
            (None, _) if full => return Err(Sense::NO_ROOM.into()),
            (None, key) => self.registrations.push((Arc::clone(port), key)),
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(effects)
    }

    /// Takes one's own registration away, and a reservation that goes with it.
    fn unregister(&mut self, port: &Port) -> Vec<(Port, Sense)> {
        let held = self.is_holder(port);
        self.registrations.retain(|(other, _)| other != port);
        match &self.held {
            Some((_, kind))
                if held && (!kind.is_held_by_all() || self.registrations.is_empty()) =>
            {
                let told = kind.admits_registrants();
                self.held = None;
                if told { self.notices(port, Sense::RESERVATIONS_RELEASED) } else { Vec::new() }
            }
            _ => Vec::new(),
        }
    }

    fn reserve(&mut self, port: &Port, kind: ReservationType) -> Result<Effects, Refusal> {
        match &self.held {
            None => self.held = Some((Arc::clone(port), kind)),
            Some((_, present)) if self.is_holder(port) && *present == kind => {}
            Some(_) => return Err(Refusal::Conflict),
        }
        Ok(Effects::default())
    }

    fn release(&mut self, port: &Port, kind: ReservationType) -> Result<Effects, Refusal> {
        let mut effects = Effects::default();
        match &self.held {
            Some((_, present)) if self.is_holder(port) => {
                if *present != kind {
                    return Err(Sense::INVALID_RELEASE.into());
                }
                self.held = None;
                if kind.admits_registrants() {
                    effects.notices = self.notices(port, Sense::RESERVATIONS_RELEASED);
                }
            }
            _ => {}
        }
        Ok(effects)
    }

    fn clear(&mut self, port: &Port) -> Effects {
        let notices = self.notices(port, Sense::RESERVATIONS_PREEMPTED);
        self.held = None;
        self.registrations.clear();
        self.generation = self.generation.wrapping_add(1);
        Effects { notices, removed: Vec::new() }
    }

    fn preempt(
        &mut self,
        port: &Port,
        key: u64,
        kind: ReservationType,
    ) -> Result<Effects, Refusal> {
        let (takes_over, everybody) = match &self.held {
            Some((_, present)) if present.is_held_by_all() => (key == 0, key == 0),
            Some((holder, _)) => (self.key_of(holder) == Some(key), false),
            None => (false, false),
        };
        if key == 0 && !takes_over {
            return Err(Sense::INVALID_PARAMETER.in_parameters(8).into());
        }
        if !everybody && !self.registrations.iter().any(|(_, other)| *other == key) {
            return Err(Refusal::Conflict);
        }
        let mut effects = Effects::default();
        self.registrations.retain(|(other, other_key)| {
            let stays = other == port || !(everybody || *other_key == key);
            if !stays {
                effects.removed.push(Arc::clone(other));
            }
            stays
        });
        let told = effects.removed.iter();
        effects.notices = told.map(|p| (Arc::clone(p), Sense::REGISTRATIONS_PREEMPTED)).collect();
        if takes_over {
            let before = self.held.replace((Arc::clone(port), kind));
            if before.is_some_and(|(_, before)| before != kind) {
                effects.notices.extend(self.notices(port, Sense::RESERVATIONS_RELEASED));
            }
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(effects)
    }

    /// A notice to everybody registered but `port`.
    fn notices(&self, port: &Port, sense: Sense) -> Vec<(Port, Sense)> {
        let others = self.registrations.iter().filter(|(other, _)| other != port);
        others.map(|(other, _)| (Arc::clone(other), sense)).collect()
    }
}

/// Commands that no reservation keeps anybody from.
fn always_allowed(command: &Command) -> bool {
    matches!(
        command,
        Command::Inquiry { .. } | Command::ReportLuns { .. } | Command::RequestSense { .. }
    )
}

#[cfg(test)]
#[path = "reservation/tests.rs"]
mod tests;
