//! How fast records become events, and events lines: `cargo bench --bench decode`.

mod program;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pystap::analysis::pairing::Pairing;
use pystap::engine::stap::wire::{Decoded, Decoder, Encoder};
use pystap::event::json::Writer;

const RECORDS: usize = 100_000;
/// What an engine reads at a time.
const CHUNK: usize = 128 * 1024;

fn decoding(criterion: &mut Criterion) {
    let mut encoder = Encoder::new();
    program::Program::new().run(RECORDS, &mut encoder);
    let bytes = encoder.take();
    let mut group = criterion.benchmark_group("wire");
    group.sample_size(20);
    group.throughput(Throughput::Elements(RECORDS as u64));

    let mut decoded: Vec<Decoded> = Vec::new();
    group.bench_function("decode", |bencher| {
        let mut decoder = Decoder::new();
        bencher.iter(|| {
            for chunk in bytes.chunks(CHUNK) {
                decoded.clear();
                decoder.push(black_box(chunk), &mut decoded);
                black_box(&decoded);
            }
        });
    });

    let mut lines = Vec::new();
    group.bench_function("decode, pair and write JSON", |bencher| {
        let mut decoder = Decoder::new();
        let mut pairing = Pairing::new();
        let mut writer = Writer::new();
        bencher.iter(|| {
            for chunk in bytes.chunks(CHUNK) {
                decoded.clear();
                lines.clear();
                decoder.push(black_box(chunk), &mut decoded);
                for it in &mut decoded {
                    if let Decoded::Event(event) = it {
                        pairing.feed(event);
                        writer.event(event, &mut lines);
                    }
                }
                black_box(&lines);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, decoding);
criterion_main!(benches);
