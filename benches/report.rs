//! Criterion, with throughput as GFLOP/s or GB/s and per cent of the machine's peak.

use std::env;
use std::time::{Duration, Instant};

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};

use cnnkern::{Context, ContextOptions};

use crate::number::Number;
use crate::peak::{Effort, Machine, Peaks};

/// A context as the environment asks for it, how hard to try, and the machine, which it prints.
pub fn set_up() -> (Context, Effort, Machine) {
    let context = Context::new(&ContextOptions::default()).expect("a context");
    let asked = |option: &str| env::args().any(|argument| argument == option);
    // Without --bench, as `cargo test` calls it, criterion only tries every benchmark once.
    let measuring = asked("--bench") && !asked("--test") && !asked("--list");
    let effort = if measuring { Effort::Full } else { Effort::Trial };
    let machine = Machine::measure(&context, effort);
    if measuring {
        println!("{machine}");
    }
    (context, effort, machine)
}

/// The peaks of one element type.
#[derive(Clone, Copy)]
pub struct Peak {
    /// Floating-point operations a second.
    flops: f64,
    /// Bytes a second, the better of reading and copying.
    bytes: f64,
}

impl Peak {
    pub fn of<T: Number>(peaks: &Peaks) -> Peak {
        Peak { flops: T::flops(peaks), bytes: peaks.read.max(peaks.copy) }
    }
}

/// The benchmarks that are compared with one peak.
pub struct Bench<'a> {
    pub context: &'a Context,
    pub effort: Effort,
    criterion: Criterion<BesidePeak>,
}

impl<'a> Bench<'a> {
    pub fn new(context: &'a Context, effort: Effort, peak: Peak) -> Self {
        let criterion = Criterion::default()
            .with_measurement(BesidePeak(peak))
            .without_plots()
            .sample_size(10)
            .warm_up_time(Duration::from_millis(100))
            .measurement_time(Duration::from_millis(300))
            .nresamples(2000)
            .configure_from_args();
        Bench { context, effort, criterion }
    }

    /// Benchmarks whose names begin with `name`.
    pub fn group(&mut self, name: &str) -> Group<'_> {
        let mut group = self.criterion.benchmark_group(name);
        group.sampling_mode(SamplingMode::Flat);
        Group { group, effort: self.effort }
    }
}

/// What one run of a benchmark does.
#[allow(dead_code, reason = "a program has benchmarks of one of them")]
#[derive(Clone, Copy)]
pub enum Work {
    /// Floating-point operations, two for a multiply-add.
    Flops(usize),
    /// Bytes of tensors that are read or written.
    Bytes(usize),
}

pub struct Group<'a> {
    group: BenchmarkGroup<'a, BesidePeak>,
    effort: Effort,
}

impl Group<'_> {
    /// Times `run` on the tensors that `setup` makes, once, and only if the benchmark is asked for.
    /// A trial leaves out what takes long without optimization.
    pub fn measure<S>(
        &mut self,
        name: &str,
        work: Work,
        setup: impl Fn() -> S,
        run: impl Fn(&mut S),
    ) {
        let (Work::Flops(amount) | Work::Bytes(amount)) = work;
        if self.effort == Effort::Trial && amount > 2_000_000 {
            return;
        }
        self.group.throughput(match work {
            Work::Flops(flops) => Throughput::Elements(flops as u64),
            Work::Bytes(bytes) => Throughput::BytesDecimal(bytes as u64),
        });
        let mut tensors = None;
        self.group.bench_function(name, |bencher| {
            let tensors = tensors.get_or_insert_with(&setup);
            bencher.iter(|| run(tensors));
        });
    }
}

/// [`WallTime`] that knows the peak: `Elements` are floating-point operations.
struct BesidePeak(Peak);

impl BesidePeak {
    /// Giga-units a second, their name, and the peak in them.
    fn rate(&self, throughput: &Throughput, nanoseconds: f64) -> (f64, &'static str, f64) {
        match *throughput {
            Throughput::Elements(flops) => {
                (flops as f64 / nanoseconds, "GFLOP/s", self.0.flops / 1e9)
            }
            Throughput::BytesDecimal(bytes) => {
                (bytes as f64 / nanoseconds, "GB/s", self.0.bytes / 1e9)
            }
            _ => unreachable!("see Group::measure"),
        }
    }
}

impl ValueFormatter for BesidePeak {
    fn format_throughput(&self, throughput: &Throughput, nanoseconds: f64) -> String {
        let (rate, unit, peak) = self.rate(throughput, nanoseconds);
        format!("{rate:.1} {unit} ({:.0} % of peak)", 100.0 * rate / peak)
    }

    fn scale_throughputs(
        &self,
        typical: f64,
        throughput: &Throughput,
        values: &mut [f64],
    ) -> &'static str {
        let (_, unit, _) = self.rate(throughput, typical);
        for value in values {
            (*value, _, _) = self.rate(throughput, *value);
        }
        unit
    }

    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_values(typical, values)
    }

    fn scale_for_machines(&self, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_for_machines(values)
    }
}

impl Measurement for BesidePeak {
    type Intermediate = Instant;
    type Value = Duration;

    fn start(&self) -> Instant {
        WallTime.start()
    }

    fn end(&self, start: Instant) -> Duration {
        WallTime.end(start)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        WallTime.add(a, b)
    }

    fn zero(&self) -> Duration {
        WallTime.zero()
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}
