//! Ten million records through the whole pipeline, as one table: `cargo bench --bench replay [-- RECORDS]`.
//!
//! Records are made, decoded, paired and written as JSON to /dev/null a batch at a time; only our side is timed, not
//! the making. The table says what README and docs may claim.

mod program;

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use pystap::analysis::pairing::Pairing;
use pystap::engine::stap::wire::{Decoded, Decoder, Encoder};
use pystap::event::json::Writer;

const BATCH: usize = 4_000;

fn main() -> std::io::Result<()> {
    // `cargo bench` and `cargo test --benches` add options of their own; a number is ours.
    let asked = std::env::args().skip(1).find_map(|it| it.parse().ok());
    let small = std::env::args().any(|it| it == "--test");
    let records: usize = asked.unwrap_or(if small { 10_000 } else { 10_000_000 });

    let mut program = program::Program::new();
    let mut encoder = Encoder::new();
    let (mut decoder, mut pairing, mut writer) = (Decoder::new(), Pairing::new(), Writer::new());
    let mut output = OpenOptions::new().write(true).open("/dev/null")?;
    let (mut decoded, mut lines) = (Vec::new(), Vec::new());
    let (mut decoding, mut pairing_time, mut writing) =
        (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (mut bytes_in, mut bytes_out, mut events) = (0u64, 0u64, 0u64);

    let mut left = records;
    while left > 0 {
        let batch = left.min(BATCH);
        left -= batch;
        encoder.clear();
        program.run(batch, &mut encoder);
        bytes_in += encoder.bytes().len() as u64;
        decoded.clear();
        lines.clear();

        let start = Instant::now();
        decoder.push(encoder.bytes(), &mut decoded);
        decoding += start.elapsed();

        let start = Instant::now();
        for it in &mut decoded {
            if let Decoded::Event(event) = it {
                pairing.feed(event);
            }
        }
        pairing_time += start.elapsed();

        let start = Instant::now();
        for it in &decoded {
            if let Decoded::Event(event) = it {
                writer.event(event, &mut lines);
                events += 1;
            }
        }
        output.write_all(&lines)?;
        writing += start.elapsed();
        bytes_out += lines.len() as u64;
    }
    assert_eq!(events, records as u64, "every record becomes an event");
    assert_eq!(pairing.unpaired().total(), 0, "every return finds its call");

    let rate = |time: Duration| records as f64 / time.as_secs_f64() / 1e6;
    let whole = decoding + pairing_time + writing;
    println!("| {records} records | measured | required |");
    println!("|---|---|---|");
    println!("| decoded, million records/s | {:.1} | 5 |", rate(decoding));
    println!("| paired, million events/s | {:.1} | |", rate(pairing_time));
    println!(
        "| written as JSON, million events/s | {:.1} | |",
        rate(writing)
    );
    println!("| all of it, million events/s | {:.1} | 2 |", rate(whole));
    println!(
        "| bytes in / out, MB | {} / {} | |",
        bytes_in / 1_000_000,
        bytes_out / 1_000_000
    );
    let peak = peak_memory()?.map_or("unknown".to_owned(), |kib| (kib / 1024).to_string());
    println!("| peak resident memory, MB | {peak} | under 50 |");
    Ok(())
}

/// Peak resident memory of this process in KiB; `None` where the kernel does not say.
fn peak_memory() -> std::io::Result<Option<u64>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.and_then(|it| it.trim().strip_suffix("kB")?.trim().parse().ok()))
}
