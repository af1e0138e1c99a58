//! Signature, search and rebuilding, beside fast_rsync on the same data.

use std::hint::black_box;
use std::time::Duration;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use psync::delta::{Decoder, DeltaError, Encoder, Op, Params, Signature, SignatureBuilder};

const MIB: usize = 1 << 20;

/// As fast_rsync's own benchmark has it: the same block length and hash length for both.
const BLOCK_LEN: u32 = 4096;
const HASH_LEN: u8 = 8;

/// zstd level of the fresh bytes; low, because fast_rsync does not compress them at all.
const LEVEL: i32 = 1;

fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len / 8).flat_map(|_| word()).collect()
}

/// A copy with a few insertions and overwritten bytes.
fn edited(data: &[u8]) -> Vec<u8> {
    let mut new = data.to_vec();
    for i in 0..8 {
        let at = new.len() / 9 * (i + 1);
        new[at] ^= 1;
        new.splice(at + 20_000..at + 20_000, *b"a few fresh bytes");
    }
    new
}

fn params() -> Params {
    Params::from_wire(BLOCK_LEN, HASH_LEN, 0x5eed).expect("within the limits")
}

fn sign(data: &[u8]) -> Vec<u8> {
    let mut builder = SignatureBuilder::new(params());
    builder.update(data);
    builder.finish()
}

fn encode(old_len: usize, packed: &[u8], new: &[u8]) -> Vec<Op> {
    let signature = Signature::parse(params(), old_len as u64, packed).expect("our own");
    let mut ops = Vec::new();
    let mut emit = |op| -> Result<(), DeltaError> {
        ops.push(op);
        Ok(())
    };
    let mut encoder = Encoder::new(&signature, LEVEL);
    encoder.push(new, &mut emit).and_then(|()| encoder.finish(&mut emit)).expect("level exists");
    ops
}

fn decode(old: &[u8], ops: &[Op], new_len: usize) -> Vec<u8> {
    let mut new = Vec::with_capacity(new_len);
    let mut decoder = Decoder::new(&params(), old.len() as u64, new_len as u64);
    for op in ops {
        let mut read = |offset: u64, buffer: &mut [u8]| {
            buffer.copy_from_slice(&old[offset as usize..][..buffer.len()]);
            Ok(())
        };
        let mut write = |bytes: &[u8]| {
            new.extend_from_slice(bytes);
            Ok(())
        };
        decoder.apply(op, &mut read, &mut write).expect("our own");
    }
    new
}

fn rsync_sign(data: &[u8]) -> fast_rsync::Signature {
    let options =
        fast_rsync::SignatureOptions { block_size: BLOCK_LEN, crypto_hash_size: HASH_LEN.into() };
    fast_rsync::Signature::calculate(data, options)
}

fn search(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, old: &[u8], new: &[u8]) {
    group.throughput(Throughput::Bytes(new.len() as u64));
    let packed = sign(old);
    group.bench_function(format!("{name}/psync"), |b| {
        b.iter(|| encode(old.len(), &packed, black_box(new)));
    });
    let signature = rsync_sign(old);
    group.bench_function(format!("{name}/fast_rsync"), |b| {
        b.iter(|| {
            let mut delta = Vec::new();
            fast_rsync::diff(&signature.index(), black_box(new), &mut delta).expect("in memory");
            delta
        });
    });
}

fn delta(c: &mut Criterion) {
    let mut group = c.benchmark_group("delta");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    let old = random(4 * MIB, 1);
    let similar = edited(&old);

    group.throughput(Throughput::Bytes(old.len() as u64));
    group.bench_function("signature/psync", |b| b.iter(|| sign(black_box(&old))));
    group.bench_function("signature/fast_rsync", |b| b.iter(|| rsync_sign(black_box(&old))));

    search(&mut group, "search similar 4 MiB", &old, &similar);
    for mib in [1, 4, 64] {
        let (old, new) = (random(mib * MIB, 4), random(mib * MIB, 3));
        search(&mut group, &format!("search unrelated {mib} MiB"), &old, &new);
    }

    let ops = encode(old.len(), &sign(&old), &similar);
    assert!(decode(&old, &ops, similar.len()) == similar);
    group.bench_function("decode similar 4 MiB/psync", |b| {
        b.iter(|| decode(&old, black_box(&ops), similar.len()));
    });
    let mut delta = Vec::new();
    fast_rsync::diff(&rsync_sign(&old).index(), &similar, &mut delta).expect("in memory");
    group.bench_function("decode similar 4 MiB/fast_rsync", |b| {
        b.iter(|| {
            let mut new = Vec::with_capacity(similar.len());
            fast_rsync::apply(&old, black_box(&delta), &mut new).expect("our own");
            new
        });
    });
    group.finish();
}

criterion_group!(benches, delta);
criterion_main!(benches);
