//! Which faults come after how many bytes. They are drawn from a seed, so that they can be repeated. No I/O, no clock.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use fastrand::Rng;

/// An early cut comes within this many bytes of a connection.
const EARLY_BYTES: u64 = 256;
/// The most bytes that a trickle passes on one by one.
const TRICKLE_BYTES: usize = 512;

/// Which faults are injected, and how often.
///
/// Each connection's faults depend only on the seed and the connection's number. They come after a number of bytes, not
/// at a time: the same bytes meet the same faults again.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The seed of all draws.
    pub seed: u64,
    /// How many connections are cut in all. Later connections are left alone.
    pub cuts: u32,
    /// The range of bytes after which a connection is cut, counted in one direction and drawn for each connection.
    pub between: RangeInclusive<u64>,
    /// The probability that a connection is cut within its first 256 bytes instead.
    pub early: f64,
    /// The probability of [`CutKind::Reset`]. [`CutKind::Fin`] takes the rest of all kinds.
    pub reset: f64,
    /// The probability of [`CutKind::HalfOpen`].
    pub half_open: f64,
    /// The probability of [`CutKind::Abandon`].
    pub abandon: f64,
    /// The probability that the server sees FIN where the client sees RST. The server's writes do not fail then.
    pub server_fin: f64,
    /// How many bytes pass in a direction between two disturbances. An empty range means no disturbances.
    pub calm: RangeInclusive<u64>,
    /// The probability that a disturbance is a [`Disturbance::Trickle`]. Otherwise it is a [`Disturbance::Pause`].
    pub trickle: f64,
    /// How long a pause and a half-open connection last, in milliseconds.
    pub pause: RangeInclusive<u64>,
}

impl Default for Plan {
    /// No faults except on command.
    fn default() -> Self {
        Self {
            seed: 0,
            cuts: 0,
            between: 1..=65_536,
            early: 0.0,
            reset: 0.0,
            half_open: 0.0,
            abandon: 0.0,
            server_fin: 0.0,
            calm: RangeInclusive::new(1, 0),
            trickle: 0.0,
            pause: 1..=20,
        }
    }
}

/// The direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client of the proxy to its target.
    ToServer,
    /// From the target to the client.
    ToClient,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ToServer => "to-server",
            Self::ToClient => "to-client",
        })
    }
}

/// The kind of a cut. Bytes under way are lost in every kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutKind {
    /// Both peers see an orderly end: FIN.
    Fin,
    /// Both peers see RST.
    Reset,
    /// One direction is swallowed for a while, and the other goes on. Then comes RST.
    HalfOpen,
    /// The client sees RST, the server nothing. For the server the connection stays open until the server closes it.
    Abandon,
}

impl fmt::Display for CutKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fin => "fin",
            Self::Reset => "reset",
            Self::HalfOpen => "half-open",
            Self::Abandon => "abandon",
        })
    }
}

/// The end that a plan has for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The direction whose bytes are counted.
    pub direction: Direction,
    /// The number of these bytes before the cut.
    pub after: u64,
    /// The kind of the cut.
    pub kind: CutKind,
    /// How long the connection is half open before the cut, if it is.
    pub pause: Duration,
    /// Whether the server sees FIN where the client sees RST.
    pub server_fin: bool,
}

/// A fault that a connection survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// No bytes pass for this time.
    Pause(Duration),
    /// This many bytes pass one by one.
    Trickle(usize),
}

/// The next step in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// This many of the bytes at hand pass.
    Pass(usize),
    /// A disturbance.
    Disturb(Disturbance),
    /// The connection's end.
    Cut(Cut),
}

/// A plan's faults for one direction of a connection.
#[derive(Debug)]
pub struct Script {
    rng: Rng,
    calm: RangeInclusive<u64>,
    trickle: f64,
    pause: RangeInclusive<u64>,
    passed: u64,
    cut: Option<Cut>,
    /// The byte after which the next disturbance comes.
    disturb_at: Option<u64>,
}

impl Plan {
    /// The scripts of a connection, by its number: first to the server, then to the client.
    pub fn scripts(&self, connection: u64) -> [Script; 2] {
        let mut rng = Rng::with_seed(self.seed);
        // Each connection has a generator of its own, whatever earlier connections have drawn.
        let mut rng = Rng::with_seed(rng.u64(..) ^ connection.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let cut = self.draw_cut(&mut rng);
        [Direction::ToServer, Direction::ToClient].map(|direction| {
            let mut script = Script {
                rng: rng.fork(),
                calm: self.calm.clone(),
                trickle: self.trickle,
                pause: self.pause.clone(),
                passed: 0,
                cut: Some(cut).filter(|cut| cut.direction == direction),
                disturb_at: None,
            };
            script.draw_calm();
            script
        })
    }

    fn draw_cut(&self, rng: &mut Rng) -> Cut {
        let direction = [Direction::ToServer, Direction::ToClient][rng.usize(..2)];
        let after = if rng.f64() < self.early {
            rng.u64(..EARLY_BYTES)
        } else {
            rng.u64(self.between.clone())
        };
        let mut draw = rng.f64();
        let mut is = |probability| {
            draw -= probability;
            draw < 0.0
        };
        let kind = if is(self.reset) {
            CutKind::Reset
        } else if is(self.half_open) {
            CutKind::HalfOpen
        } else if is(self.abandon) {
            CutKind::Abandon
        } else {
            CutKind::Fin
        };
        let pause = draw_pause(rng, &self.pause);
        let server_fin = rng.f64() < self.server_fin;
        Cut {
            direction,
            after,
            kind,
            pause,
            server_fin,
        }
    }
}

fn draw_pause(rng: &mut Rng, pause: &RangeInclusive<u64>) -> Duration {
    Duration::from_millis(rng.u64(pause.clone()))
}

impl Script {
    /// The next step when `available` bytes are at hand. Passing bytes are counted.
    pub fn next(&mut self, available: usize) -> Step {
        if let Some(cut) = self.cut
            && cut.after <= self.passed
        {
            self.cut = None;
            return Step::Cut(cut);
        }
        if self.disturb_at == Some(self.passed) {
            self.draw_calm();
            return Step::Disturb(if self.rng.f64() < self.trickle {
                Disturbance::Trickle(self.rng.usize(1..=TRICKLE_BYTES))
            } else {
                Disturbance::Pause(draw_pause(&mut self.rng, &self.pause))
            });
        }
        let next = [self.cut.map(|cut| cut.after), self.disturb_at];
        let next = next.into_iter().flatten().min().unwrap_or(u64::MAX) - self.passed;
        let passing = available.min(usize::try_from(next).unwrap_or(usize::MAX));
        self.passed += passing as u64;
        Step::Pass(passing)
    }

    /// The number of bytes that have passed.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    fn draw_calm(&mut self) {
        self.disturb_at =
            (!self.calm.is_empty()).then(|| self.passed + self.rng.u64(self.calm.clone()).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            seed: 7,
            cuts: 1000,
            between: 500..=1000,
            early: 0.2,
            reset: 0.25,
            half_open: 0.25,
            abandon: 0.25,
            calm: 10..=100,
            trickle: 0.5,
            ..Plan::default()
        }
    }

    /// All steps of a direction's first bytes, which are at hand in pieces of one size.
    fn steps(mut script: Script, bytes: usize, piece: usize) -> Vec<(u64, Step)> {
        let mut steps = Vec::new();
        while script.passed() < bytes as u64 {
            let at = script.passed();
            match script.next(piece.min(bytes - at as usize)) {
                Step::Pass(passing) => assert!(passing > 0 && passing <= piece),
                step => steps.push((at, step)),
            }
        }
        steps
    }

    #[test]
    fn the_same_bytes_meet_the_same_faults_however_they_arrive() {
        for number in 0..50 {
            let [whole, split] = [4096, 1].map(|piece| {
                let [to_server, to_client] = plan().scripts(number);
                (steps(to_server, 2000, piece), steps(to_client, 2000, piece))
            });
            assert_eq!(whole, split);
        }
    }

    #[test]
    fn another_seed_and_another_connection_have_other_faults() {
        let faults = |seed, number| {
            let [to_server, _] = Plan { seed, ..plan() }.scripts(number);
            steps(to_server, 2000, 100)
        };
        assert_ne!(faults(1, 1), faults(2, 1));
        assert_ne!(faults(1, 1), faults(1, 2));
    }

    #[test]
    fn a_connection_has_one_cut_within_the_range() {
        let mut early = 0;
        for number in 0..400 {
            let scripts = plan().scripts(number).map(|script| steps(script, 2000, 64));
            let cuts = scripts
                .iter()
                .flatten()
                .filter_map(|(at, step)| match step {
                    Step::Cut(cut) => Some((*at, *cut)),
                    _ => None,
                });
            let [(at, cut)] = cuts.collect::<Vec<_>>()[..] else {
                panic!("expecting one cut")
            };
            assert_eq!(at, cut.after);
            assert!(at < EARLY_BYTES || (500..=1000).contains(&at));
            early += u32::from(at < EARLY_BYTES);
        }
        assert!(
            (50..110).contains(&early),
            "{early} of 400, expecting a fifth"
        );
    }

    #[test]
    fn every_kind_of_fault_is_drawn() {
        let steps: Vec<String> = (0..100)
            .flat_map(|number| plan().scripts(number))
            .flat_map(|script| steps(script, 2000, 2000))
            .map(|(_, step)| match step {
                Step::Cut(cut) => format!("{} {}", cut.direction, cut.kind),
                step => format!("{step:?}").split('(').take(2).collect(),
            })
            .collect();
        for kind in ["fin", "reset", "half-open", "abandon"] {
            for direction in ["to-server", "to-client"] {
                assert!(steps.contains(&format!("{direction} {kind}")));
            }
        }
        for kind in ["DisturbPause", "DisturbTrickle"] {
            assert!(steps.contains(&kind.to_string()));
        }
    }
}
