//! The account of what did not arrive: how much, at which stage, and when to say so. Counts only; who loses events
//! reports it here, and nothing is ever taken back.

use super::{Event, LossStage, Summary, What};

/// Time between two reports to a reader, in nanoseconds of event time.
const REPORT_EVERY_NS: u64 = 1_000_000_000;

/// Collects losses by stage and turns them into `Lost` events: for a stream at once, so that nothing is paired across a loss;
/// for a reader the first one at once, then at most one per second of event time, and the rest at the end.
#[derive(Debug, Default)]
pub struct Losses {
    probe: LossAccount,
    kernel: LossAccount,
    ring: LossAccount,
    decoder: LossAccount,
    output: LossAccount,
    waits: LossAccount,
    /// More was lost than was counted.
    uncounted: bool,
    /// Something waits to be reported; kept apart so that the common question is one comparison.
    pending: bool,
    last_report: Option<u64>,
}

#[derive(Debug, Default)]
struct LossAccount {
    total: u64,
    reported: u64,
    /// Something was lost since the last report, possibly an unknown number.
    noted: bool,
}

impl Losses {
    /// An account with nothing lost.
    pub fn new() -> Losses {
        Losses::default()
    }

    /// Notes that `count` events were lost at `stage`; 0 when only the fact is known.
    pub fn add(&mut self, stage: LossStage, count: u64) {
        self.uncounted |= count == 0;
        let account = self.account(stage);
        account.total = account.total.saturating_add(count);
        account.noted = true;
        self.pending = true;
    }

    /// Notes a loss that a `Lost` event of the stream tells already.
    pub fn told(&mut self, stage: LossStage, count: u64) {
        self.uncounted |= count == 0;
        let account = self.account(stage);
        account.total = account.total.saturating_add(count);
        account.reported = account.reported.saturating_add(count);
    }

    /// Notes that the losses at `stage` now amount to `total`, for sources that report running totals. A total that
    /// is not higher than what is known changes nothing.
    pub fn raise(&mut self, stage: LossStage, total: u64) {
        let known = self.account(stage).total;
        if total > known {
            self.add(stage, total - known);
        }
    }

    /// How many were lost at `stage` since the start.
    pub fn total(&self, stage: LossStage) -> u64 {
        match stage {
            LossStage::Probe => self.probe.total,
            LossStage::Kernel => self.kernel.total,
            LossStage::Ring => self.ring.total,
            LossStage::Decoder => self.decoder.total,
            LossStage::Output => self.output.total,
            LossStage::Waits => self.waits.total,
        }
    }

    /// Appends a `Lost` event for every stage with news, unless a report was made less than a second before `ts`
    /// (nanoseconds since the Unix epoch, of the event at hand).
    pub fn report(&mut self, ts: u64, out: &mut Vec<Event>) {
        // A clock that was set back must not silence us until it catches up: hence the absolute difference.
        let due = self
            .last_report
            .is_none_or(|last| last.abs_diff(ts) >= REPORT_EVERY_NS);
        if self.pending && due {
            self.report_rest(ts, out);
        }
    }

    /// Appends a `Lost` event for every stage with news, however short ago the last report was.
    pub fn report_rest(&mut self, ts: u64, out: &mut Vec<Event>) {
        if !self.pending {
            return;
        }
        self.pending = false;
        self.last_report = Some(ts);
        for stage in LossStage::ALL {
            let account = self.account(stage);
            if !std::mem::take(&mut account.noted) {
                continue;
            }
            let count = account.total.saturating_sub(account.reported);
            account.reported = account.total;
            out.push(lost(ts, 0, stage, count));
        }
    }

    /// Writes the totals into the fields of a summary that are about loss.
    pub fn fill(&self, summary: &mut Summary) {
        let lost = [
            self.kernel.total,
            self.ring.total,
            self.output.total,
            self.waits.total,
        ];
        summary.lost = lost.into_iter().fold(0, u64::saturating_add);
        summary.skipped = self.probe.total;
        summary.unparsed = self.decoder.total;
        summary.uncounted = self.uncounted;
    }

    fn account(&mut self, stage: LossStage) -> &mut LossAccount {
        match stage {
            LossStage::Probe => &mut self.probe,
            LossStage::Kernel => &mut self.kernel,
            LossStage::Ring => &mut self.ring,
            LossStage::Decoder => &mut self.decoder,
            LossStage::Output => &mut self.output,
            LossStage::Waits => &mut self.waits,
        }
    }
}

/// That so many events were lost at a stage, of one process or (0) of any; `count` is 0 when only the fact is known.
pub fn lost(ts: u64, pid: u32, stage: LossStage, count: u64) -> Event {
    Event {
        ts,
        pid,
        tid: 0,
        interpreter: None,
        what: What::Lost {
            count,
            stage,
            message: message(stage, count),
        },
    }
}

fn message(stage: LossStage, count: u64) -> String {
    let (what, remedy) = match stage {
        LossStage::Probe => (
            "probe hits were skipped because the kernel could not run their handler",
            "trace fewer functions or processes at once",
        ),
        LossStage::Kernel if count == 0 => (
            "events may be lost, because the kernel module did not come to say how many it had sent",
            "see the messages of this session",
        ),
        LossStage::Kernel => (
            "events were lost because the kernel's buffers were full",
            "trace fewer functions or processes, or enlarge the buffer",
        ),
        LossStage::Ring if count == 0 => (
            "events may be lost, because a program has written into the memory that they come through",
            "see the messages of this session",
        ),
        LossStage::Ring => (
            "events were lost because the memory that they come through was full: pystap could not keep up",
            "trace fewer functions or processes, or write to a file",
        ),
        LossStage::Decoder => (
            "records arrived damaged and could not be decoded",
            "trace fewer functions or processes, or enlarge the buffer",
        ),
        LossStage::Output => (
            "events were left out because the reader of the output was too slow",
            "write to a file, or read faster",
        ),
        LossStage::Waits => (
            "waits of threads are not told because the scheduler's events came faster than pystap could take them",
            "trace fewer processes, or leave out --waits",
        ),
    };
    let count = match count {
        0 => "an unknown number of".to_owned(),
        count => count.to_string(),
    };
    format!("{count} {what}; {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn counts(events: &[Event]) -> Vec<(LossStage, u64)> {
        let lost = |event: &Event| match event.what {
            What::Lost { count, stage, .. } => Some((stage, count)),
            _ => None,
        };
        events.iter().filter_map(lost).collect()
    }

    #[test]
    fn the_first_loss_is_reported_at_once_and_later_ones_once_a_second() {
        let mut losses = Losses::new();
        let mut out = Vec::new();
        losses.report(SECOND, &mut out);
        assert!(out.is_empty());
        losses.add(LossStage::Kernel, 3);
        losses.report(SECOND, &mut out);
        losses.add(LossStage::Kernel, 4);
        losses.report(SECOND + SECOND / 2, &mut out);
        losses.add(LossStage::Kernel, 5);
        losses.report(2 * SECOND, &mut out);
        losses.report(9 * SECOND, &mut out);
        assert_eq!(
            counts(&out),
            [(LossStage::Kernel, 3), (LossStage::Kernel, 9)]
        );
    }

    #[test]
    fn what_is_left_at_the_end_is_reported_whatever_the_time() {
        let mut losses = Losses::new();
        let mut out = Vec::new();
        losses.add(LossStage::Output, 1);
        losses.report(SECOND, &mut out);
        losses.add(LossStage::Probe, 7);
        losses.add(LossStage::Output, 0);
        losses.report_rest(SECOND + 1, &mut out);
        assert_eq!(
            counts(&out),
            [
                (LossStage::Output, 1),
                (LossStage::Probe, 7),
                (LossStage::Output, 0)
            ]
        );
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_silence_the_reports() {
        let mut losses = Losses::new();
        let mut out = Vec::new();
        losses.add(LossStage::Kernel, 1);
        losses.report(3600 * SECOND, &mut out);
        losses.add(LossStage::Kernel, 1);
        losses.report(SECOND, &mut out);
        assert_eq!(out.len(), 2);
    }

    #[test]
    fn the_reports_of_every_stage_add_up_to_the_summary() {
        let mut losses = Losses::new();
        let mut out = Vec::new();
        for ts in 0..40 {
            losses.add(LossStage::ALL[ts % 4], ts as u64);
            losses.report(ts as u64 * SECOND / 3, &mut out);
        }
        losses.report_rest(0, &mut out);
        let mut summary = Summary::default();
        losses.fill(&mut summary);
        let reported: u64 = counts(&out).iter().map(|&(_, count)| count).sum();
        assert_eq!(reported, summary.lost + summary.skipped + summary.unparsed);
        assert_eq!(reported, (0..40).sum::<u64>());
    }

    #[test]
    fn a_running_total_is_counted_once() {
        let mut losses = Losses::new();
        losses.raise(LossStage::Kernel, 5);
        losses.raise(LossStage::Kernel, 5);
        losses.raise(LossStage::Kernel, 8);
        losses.raise(LossStage::Kernel, 2);
        assert_eq!(losses.total(LossStage::Kernel), 8);
    }

    #[test]
    fn an_unknown_number_is_called_that() {
        let mut losses = Losses::new();
        let mut out = Vec::new();
        losses.add(LossStage::Kernel, 0);
        losses.report(1, &mut out);
        assert!(matches!(
            &out[0].what,
            What::Lost { count: 0, message, .. } if message.starts_with("an unknown number of events")
        ));
        let mut summary = Summary::default();
        losses.fill(&mut summary);
        assert!(summary.uncounted);
    }
}
