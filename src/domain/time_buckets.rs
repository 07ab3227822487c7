//! Buckets of days, for filters of lists by time. A row is stored under the bucket of each size that contains its time,
//! and a range of days is a few buckets, so that the rows of any range are found in the order of the list.

use super::time::Timestamp;

/// The sizes of buckets, in days, with the letter that their names begin with. Each is a multiple of the next.
const SIZES: [(char, i64); 3] = [('c', 1024), ('b', 32), ('a', 1)];
/// The first day, counted from the Unix epoch: 2020-06-19. Earlier times count as this day.
const FIRST_DAY: i64 = 18 * 1024;
/// The last day, counted from the first: in 2110. Later times count as this day.
const LAST_DAY: i64 = 32 * 1024 - 1;
const MILLIS_PER_DAY: i64 = 86_400_000;

/// The day of a time, counted from [`FIRST_DAY`].
fn day_of(time: Timestamp) -> i64 {
    (time.as_millis().div_euclid(MILLIS_PER_DAY) - FIRST_DAY).clamp(0, LAST_DAY)
}

/// The buckets that contain the time, one of each size.
pub(crate) fn buckets_of(time: Timestamp) -> [String; 3] {
    let day = day_of(time);
    SIZES.map(|(letter, days)| format!("{letter}{}", day / days))
}

/// The buckets that together contain all times of the days from that of `from` to that of `to`: fewer than 160. Without
/// a bound, all times before or after the other one.
pub(crate) fn buckets_of_range(from: Option<Timestamp>, to: Option<Timestamp>) -> Vec<String> {
    let mut day = from.map_or(0, day_of);
    let end = to.map_or(LAST_DAY, day_of) + 1;
    let mut buckets = Vec::new();
    while day < end {
        // The largest bucket that begins here and ends in the range; one day always does.
        let (letter, days) = SIZES
            .into_iter()
            .find(|(_, days)| day % days == 0 && day + days <= end)
            .unwrap_or(SIZES[SIZES.len() - 1]);
        buckets.push(format!("{letter}{}", day / days));
        day += days;
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_millis((FIRST_DAY + day) * MILLIS_PER_DAY + 12_345)
    }

    /// Each day of the range is in exactly one bucket, and no other day is in any.
    #[test]
    fn the_buckets_of_a_range_cover_its_days_once() {
        let random = |max: i64| fastrand::i64(0..=max);
        let cases = [(0, 0), (0, LAST_DAY), (LAST_DAY, LAST_DAY), (1, LAST_DAY - 1), (31, 32), (0, 1023)];
        let random_cases = (0..200).map(|_| {
            let from = random(LAST_DAY);
            (from, (from + random(3000)).min(LAST_DAY))
        });
        for (from, to) in cases.into_iter().chain(random_cases) {
            let buckets = buckets_of_range(Some(at(from)), Some(at(to)));
            assert!(buckets.len() < 160, "{from} {to}: {}", buckets.len());
            for day in [0, from - 1, from, (from + to) / 2, to, to + 1, LAST_DAY] {
                let day = day.clamp(0, LAST_DAY);
                let own = buckets_of(at(day));
                let containing = buckets.iter().filter(|bucket| own.contains(bucket)).count();
                assert_eq!(containing == 1, (from..=to).contains(&day), "{from} {to} {day}: {containing}");
                assert!(containing <= 1);
            }
        }
        assert_eq!(buckets_of_range(Some(at(5)), Some(at(4))), [""; 0]);
    }

    #[test]
    fn times_outside_the_days_count_as_the_first_or_the_last() {
        let [long_ago, far_off] = [0, 253_402_300_799_999].map(Timestamp::from_millis);
        assert_eq!(buckets_of(long_ago), buckets_of(at(0)));
        assert_eq!(buckets_of(far_off), buckets_of(at(LAST_DAY)));
        assert_eq!(buckets_of_range(None, None).len(), 32);
        assert_eq!(buckets_of_range(None, Some(long_ago)), ["a0"]);
        assert_eq!(buckets_of_range(Some(far_off), None).len(), 1);
    }
}
