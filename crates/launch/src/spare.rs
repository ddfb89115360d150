//! Spare machines: what an interruption costs, and from which price on they are cheaper than machines that stay.
//!
//! What a machine costs as a spare one changes by the hour and by the zone, and how often it is taken back is told by nobody: neither is
//! guessed here. What can be said is how the two hang together. Of `T` paid seconds between two interruptions `T - lost` are kept, so
//! that a price pays where it is below `1 - lost / T` of the other. Waiting for machines is not billed, and not counted.

use plan::simulation::reliability::RESTART_SECS;

const DAY_SECS: f64 = 86_400.0;
const HOUR_SECS: f64 = 3600.0;

/// A run on machines that may be taken back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spare {
    /// Of all machines, on demand, and as spare ones where their user knows it.
    pub usd_per_hour: f64,
    pub spare_usd_per_hour: Option<f64>,
    /// Of the whole run on machines that stay.
    pub usd: Option<f64>,
    /// Between two checkpoints.
    pub interval_secs: f64,
}

impl Spare {
    /// Paid seconds that an interruption costs: half of what lies between two checkpoints, and starting again.
    #[must_use]
    pub fn lost_secs(&self) -> f64 {
        self.interval_secs / 2.0 + RESTART_SECS
    }

    /// How far below on-demand a price has to be where they are taken back every `secs`; more than all of it where nothing comes forward.
    #[must_use]
    pub fn even_saving(&self, secs: f64) -> f64 {
        self.lost_secs() / secs
    }

    /// For people.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let lost = self.lost_secs();
        let costs = format!(
            "each time that they are taken back about {} of paid time are lost: half of the {} between checkpoints, and {} to start again",
            told(lost),
            told(self.interval_secs),
            told(RESTART_SECS)
        );
        let [day, hour] = [DAY_SECS, HOUR_SECS].map(|every| {
            let saving = self.even_saving(every);
            if saving < 1.0 { format!("{:.1} % below on-demand", 100.0 * saving) } else { "no price".to_owned() }
        });
        let Some(spare) = self.spare_usd_per_hour else {
            return vec![format!(
                "spare machines (`--place spot=true`): {costs}; once a day {day} makes up for it, once an hour {hour}; \
                 `--place spot_usd_per_hour=N`, today's price of one, tells what they come to"
            )];
        };
        let saving = 1.0 - spare / self.usd_per_hour;
        if saving <= 0.0 {
            return vec![format!(
                "spare machines: at ${spare:.2} an hour together they are no cheaper than ${:.2} on demand",
                self.usd_per_hour
            )];
        }
        let usd = self.usd.map_or(String::new(), |usd| {
            let daily = (1.0 - saving) / (1.0 - self.even_saving(DAY_SECS)).max(f64::EPSILON);
            let of = |ratio: f64| format!("${:.2}", usd * ratio);
            let daily = if lost < DAY_SECS { format!("{} taken back once a day, ", of(daily)) } else { String::new() };
            format!("{} never taken back, {daily}{} on demand; ", of(1.0 - saving), of(1.0))
        });
        vec![format!(
            "spare machines at ${spare:.2} an hour together, {:.0} % below on-demand: {usd}{costs}; cheaper as long as that is less often than every {}",
            100.0 * saving,
            told(lost / saving)
        )]
    }
}

fn told(secs: f64) -> String {
    match secs {
        secs if secs < 90.0 => format!("{secs:.0} s"),
        secs if secs < 2.0 * HOUR_SECS => format!("{:.0} minutes", secs / 60.0),
        secs => format!("{:.1} hours", secs / HOUR_SECS),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    /// Forty minutes between checkpoints: half an hour is lost each time.
    const RUN: Spare = Spare { usd_per_hour: 400.0, spare_usd_per_hour: None, usd: Some(9600.0), interval_secs: 2400.0 };

    #[test]
    fn what_is_kept_is_what_a_run_with_interruptions_keeps() {
        // Taken back every two hours of paid time, by the clock, for a thousand hours of work.
        let (every, mut paid, mut kept) = (7200.0, 0.0, 0.0);
        while kept < 1000.0 * HOUR_SECS {
            paid += every;
            kept += every - RUN.lost_secs();
        }
        assert!((kept / paid - (1.0 - RUN.even_saving(every))).abs() < 1e-9, "at this price both cost the same");
        let even = Spare { spare_usd_per_hour: Some(400.0 * kept / paid), ..RUN };
        assert!(even.notes()[0].contains("less often than every 2.0 hours"), "{:?}", even.notes());
    }

    #[test]
    fn no_price_is_guessed_and_one_that_is_given_is_weighed() {
        expect!["spare machines (`--place spot=true`): each time that they are taken back about 30 minutes of paid time are lost: half of the 40 minutes between checkpoints, and 10 minutes to start again; once a day 2.1 % below on-demand makes up for it, once an hour 50.0 % below on-demand; `--place spot_usd_per_hour=N`, today's price of one, tells what they come to"].assert_eq(&RUN.notes()[0]);
        expect!["spare machines at $160.00 an hour together, 60 % below on-demand: $3840.00 never taken back, $3921.70 taken back once a day, $9600.00 on demand; each time that they are taken back about 30 minutes of paid time are lost: half of the 40 minutes between checkpoints, and 10 minutes to start again; cheaper as long as that is less often than every 50 minutes"].assert_eq(&Spare { spare_usd_per_hour: Some(160.0), ..RUN }.notes()[0]);
        expect!["spare machines: at $500.00 an hour together they are no cheaper than $400.00 on demand"]
            .assert_eq(&Spare { spare_usd_per_hour: Some(500.0), ..RUN }.notes()[0]);
        let hopeless = Spare { interval_secs: 2.0 * DAY_SECS, ..RUN };
        assert!(hopeless.notes()[0].contains("once a day no price makes up for it"), "{:?}", hopeless.notes());
    }
}
