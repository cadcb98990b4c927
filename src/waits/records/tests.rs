//! Records put together as the kernel writes them.

use proptest::prelude::*;

use super::*;

const PID: u32 = 10;
const WAKINGS: u64 = 7;
const BEGINS: u64 = 8;
const ENDS: u64 = 9;
const REGISTRATIONS: u64 = 10;
const PIPE: u64 = 0x1000;
const SELECT: u64 = 0x2000;

fn decoder(first_namespace: bool) -> Decoder {
    let tracepoint = |fields: &[(&str, usize)]| Tracepoint {
        id: 1,
        fields: fields
            .iter()
            .map(|(name, at)| ((*name).to_owned(), *at))
            .collect(),
    };
    let format = Format::new(
        &tracepoint(&[("prev_pid", 24), ("prev_state", 32)]),
        &tracepoint(&[("common_flags", 2), ("pid", 24)]),
        vec![(1, 'S'), (2, 'D'), (4, 'T')],
    );
    let text = "1000 T anon_pipe_read\n2000 T core_sys_select\n3000 T nothing\n";
    let symbols = Symbols::read(text.as_bytes()).expect("read");
    let mut decoder = Decoder::new(
        format.expect("all fields"),
        symbols,
        HashSet::from([PID]),
        first_namespace,
    );
    decoder.tells_wakings(WAKINGS);
    let begin = tracepoint(&[("id", 8), ("args", 16)]);
    let end = tracepoint(&[("id", 8), ("ret", 16)]);
    decoder.tells_calls(
        CallFormat::new(&begin, &end).expect("all fields"),
        &[(BEGINS, Tells::CallsBegin), (ENDS, Tells::CallsEnd)],
    );
    let format = RegistrationFormat::new(&begin).expect("all fields");
    decoder.tells_registrations(format, &[REGISTRATIONS]);
    decoder
}

fn record(kind: u32, misc: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_ne_bytes().to_vec();
    bytes.extend((misc as u16).to_ne_bytes());
    bytes.extend((8 + body.len() as u16).to_ne_bytes());
    bytes.extend(body);
    bytes
}

fn trailer(tid: u32, time: u64) -> Vec<u8> {
    let mut bytes = [PID, tid].map(u32::to_ne_bytes).concat();
    bytes.extend([time, 1].map(u64::to_ne_bytes).concat());
    bytes
}

/// A `sched_switch` of a thread that tracepoints call `number`.
fn switch(tid: u32, number: u32, state: u64, chain: &[u64], argument: u64) -> Vec<u8> {
    let mut body = trailer(tid, 100);
    body.extend((chain.len() as u64 + 1).to_ne_bytes());
    // "Of the kernel", then the addresses.
    body.extend((-128_i64 as u64).to_ne_bytes());
    body.extend(chain.iter().flat_map(|address| address.to_ne_bytes()));
    let mut raw = vec![0; 60];
    raw[24..28].copy_from_slice(&number.to_ne_bytes());
    raw[32..40].copy_from_slice(&state.to_ne_bytes());
    body.extend(60_u32.to_ne_bytes());
    body.extend(raw);
    // The second argument comes first on one machine, the first on the other.
    body.extend([2, argument, argument].map(u64::to_ne_bytes).concat());
    record(bindings::PERF_RECORD_SAMPLE, 0, &body)
}

fn waking(by: u32, woken: u32, flags: u8) -> Vec<u8> {
    let mut body = [PID, by].map(u32::to_ne_bytes).concat();
    body.extend([100, WAKINGS].map(u64::to_ne_bytes).concat());
    let mut raw = vec![0; 36];
    raw[2] = flags;
    raw[24..28].copy_from_slice(&woken.to_ne_bytes());
    body.extend(36_u32.to_ne_bytes());
    body.extend(raw);
    record(bindings::PERF_RECORD_SAMPLE, 0, &body)
}

fn call(pid: u32, counter: u64, numbers: &[u64]) -> Vec<u8> {
    let mut body = [pid, 5].map(u32::to_ne_bytes).concat();
    body.extend([100, counter].map(u64::to_ne_bytes).concat());
    let raw: Vec<u8> = [&[0], numbers]
        .concat()
        .into_iter()
        .flat_map(u64::to_ne_bytes)
        .collect();
    body.extend((raw.len() as u32).to_ne_bytes());
    body.extend(raw);
    record(bindings::PERF_RECORD_SAMPLE, 0, &body)
}

fn one(decoder: &mut Decoder, bytes: &[u8]) -> Option<Happened> {
    let mut out = Vec::new();
    decoder.decode(bytes, &mut out);
    assert_eq!(decoder.unreadable, 0);
    out.pop().map(|record| record.happened)
}

fn cause(decoder: &mut Decoder, bytes: &[u8]) -> Cause {
    match one(decoder, bytes) {
        Some(Happened::Waits { cause, .. }) => cause,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_switch_tells_the_reason_the_call_and_its_argument() {
    let mut decoder = decoder(true);
    let told = cause(&mut decoder, &switch(1, 1, 1, &[0x3010, PIPE + 4], 3));
    assert_eq!(told.reason, Reason::Pipe);
    assert_eq!(told.argument, 3);
    let select = switch(1, 1, 1, &[SELECT], 5);
    let told = cause(&mut decoder, &select);
    assert_eq!(told.reason, Reason::Poll);
    assert_eq!(told.call.as_deref(), Some("select"));
    // Without a descriptor it is a sleep.
    let select = switch(1, 1, 1, &[SELECT], 0);
    assert_eq!(cause(&mut decoder, &select).reason, Reason::Sleep);
    let stopped = switch(1, 1, 4, &[PIPE], 0);
    assert_eq!(cause(&mut decoder, &stopped).reason, Reason::Stopped);
}

#[test]
fn a_state_that_has_no_letter_is_that_of_a_preempted_thread() {
    let mut decoder = decoder(true);
    for state in [0, 0x100] {
        let told = one(&mut decoder, &switch(1, 1, state, &[PIPE], 0));
        assert_eq!(told, Some(Happened::Preempted { pid: PID, tid: 1 }));
    }
}

#[test]
fn only_coming_to_a_processor_is_told_by_a_switch_record() {
    let mut decoder = decoder(true);
    let out = bindings::PERF_RECORD_MISC_SWITCH_OUT;
    let switched = |misc| record(bindings::PERF_RECORD_SWITCH, misc, &trailer(5, 9));
    assert_eq!(one(&mut decoder, &switched(out)), None);
    let runs = Happened::Runs { pid: PID, tid: 5 };
    assert_eq!(one(&mut decoder, &switched(0)), Some(runs));
}

#[test]
fn a_waking_in_an_interrupt_is_nobodys() {
    let mut decoder = decoder(true);
    let waker = |decoder: &mut Decoder, bytes: &[u8]| match one(decoder, bytes) {
        Some(Happened::Woken { tid: 2, waker }) => waker,
        other => panic!("{other:?}"),
    };
    let thread = Waker::Thread { pid: PID, tid: 1 };
    assert_eq!(waker(&mut decoder, &waking(1, 2, 0)), thread);
    assert_eq!(waker(&mut decoder, &waking(1, 2, SOFT_INTERRUPT)), thread);
    let hard = waking(1, 2, HARD_INTERRUPT);
    assert_eq!(waker(&mut decoder, &hard), Waker::Interrupt);
    assert_eq!(waker(&mut decoder, &waking(0, 2, 0)), Waker::Interrupt);
}

#[test]
fn in_another_namespace_a_woken_thread_is_found_by_the_number_it_left_with() {
    let mut decoder = decoder(false);
    assert_eq!(one(&mut decoder, &waking(1, 4002, 0)), None);
    one(&mut decoder, &switch(2, 4002, 1, &[PIPE], 0));
    let told = one(&mut decoder, &waking(1, 4002, 0));
    assert!(matches!(told, Some(Happened::Woken { tid: 2, .. })));
    // The same number in our namespace is another thread.
    assert_eq!(one(&mut decoder, &waking(1, 2, 0)), None);
}

#[test]
fn a_system_call_is_told_with_its_arguments_and_its_result() {
    let mut decoder = decoder(true);
    let begins = one(&mut decoder, &call(PID, BEGINS, &[45, 3, 4, 5, 6, 7, 8]));
    let expected = Happened::Enters {
        pid: PID,
        tid: 5,
        number: 45,
        arguments: [3, 4],
    };
    assert_eq!(begins, Some(expected));
    let ends = one(&mut decoder, &call(PID, ENDS, &[45, -11_i64 as u64]));
    let expected = Happened::Leaves {
        pid: PID,
        tid: 5,
        number: 45,
        result: -11,
    };
    assert_eq!(ends, Some(expected));
    assert_eq!(one(&mut decoder, &call(99, ENDS, &[45, 0])), None);
    // Shorter than it should be.
    let mut out = Vec::new();
    decoder.decode(&call(PID, BEGINS, &[45, 3]), &mut out);
    assert_eq!((out.len(), decoder.unreadable), (0, 1));
}

#[test]
fn what_epolls_are_to_watch_is_told_and_what_closes_descriptors() {
    let mut decoder = decoder(true);
    let mut told = |name: &str, arguments: [u64; 3]| {
        let number = syscall_number(name).expect("it has a number");
        let numbers = [&[number], &arguments[..], &[0, 0, 0]].concat();
        one(&mut decoder, &call(PID, REGISTRATIONS, &numbers))
    };
    let (pid, tid) = (PID, 5);
    let registers = Some(Happened::Registers {
        pid,
        tid,
        descriptor: 9,
    });
    // To watch it, to stop that, and to watch it for something else.
    assert_eq!(told("epoll_ctl", [4, 1, 9]), registers);
    assert_eq!(told("epoll_ctl", [4, 2, 9]), None);
    assert_eq!(told("epoll_ctl", [4, 3, 9]), registers);
    let changes = |descriptor| Some(Happened::Changes { pid, descriptor });
    assert_eq!(told("close", [9, 1, 7]), changes(Some(9)));
    assert_eq!(told("connect", [9, 1, 7]), changes(Some(9)));
    assert_eq!(told("dup3", [9, 1, 7]), changes(Some(1)));
    assert_eq!(told("close_range", [9, 1, 7]), changes(None));
    assert_eq!(told("read", [9, 1, 7]), None);
}

#[test]
fn losses_and_ends_are_told() {
    let mut decoder = decoder(true);
    let mut body = [3, 17].map(u64::to_ne_bytes).concat();
    body.extend(trailer(1, 9));
    let lost = record(bindings::PERF_RECORD_LOST, 0, &body);
    assert_eq!(one(&mut decoder, &lost), Some(Happened::Lost { count: 17 }));
    let mut body = [PID, PID, 5, 5].map(u32::to_ne_bytes).concat();
    body.extend(trailer(5, 9));
    let exit = record(bindings::PERF_RECORD_EXIT, 0, &body);
    assert_eq!(one(&mut decoder, &exit), Some(Happened::Ended { tid: 5 }));
}

#[test]
fn processes_that_are_no_targets_are_passed_over() {
    let mut decoder = decoder(true);
    let mut bytes = switch(1, 1, 1, &[PIPE], 0);
    bytes[8..12].copy_from_slice(&99_u32.to_ne_bytes());
    assert_eq!(one(&mut decoder, &bytes), None);
}

proptest! {
    #[test]
    fn whatever_bytes_come_decoding_ends(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        at in 0_usize..200,
        number in any::<u64>(),
    ) {
        let mut out = Vec::new();
        decoder(true).decode(&bytes, &mut out);
        // A record with a number in it that is not what it should be.
        let mut bytes = switch(1, 1, 1, &[PIPE, SELECT], 1);
        let length = bytes.len();
        let at = 8 + at % (length - 16);
        bytes[at..at + 8].copy_from_slice(&number.to_ne_bytes());
        decoder(false).decode(&bytes, &mut out);
    }
}
