use proptest::prelude::*;

use super::{halo_is_clean, noise, packed, packed_gradient, padding_is_zero, spare, unpacked};
use crate::kernels::copy::{Channels, Flatten};
use crate::maps::Maps;
use crate::simd::Path;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn channels_are_joined_and_parted(
        channels in prop::collection::vec(prop_oneof![1..=40usize, Just(16), Just(32)], 1..=3),
        size in [1..=5usize, 1..=5usize],
        halos in [spare(), spare()],
        add: bool,
    ) {
        let all = Maps::new(channels.iter().sum(), size).with_halo(halos[0]);
        let plane = size[0] * size[1];
        let values = noise("values", all.channels * plane);
        for path in Path::available() {
            let mut joined = packed(&all, &vec![8.0; values.len()]);
            let mut first = 0;
            for count in &channels {
                let one = Maps::new(*count, size).with_halo(halos[1]);
                let part = &values[first * plane..(first + count) * plane];
                Channels::new(path, &one, 0, &all, first, *count).run(&packed(&one, part), &mut joined, false);
                let before = noise("before", part.len());
                let mut parted = if add { packed_gradient(&one, &before) } else { packed(&one, &before) };
                Channels::new(path, &all, first, &one, 0, *count).run(&packed(&all, &values), &mut parted, add);
                let sums: Vec<f32> = part.iter().zip(&before).map(|(a, b)| if add { a + b } else { *a }).collect();
                prop_assert_eq!(unpacked(&one, &parted), sums);
                prop_assert!(padding_is_zero(&one, &parted), "zeros behind the last channel");
                first += count;
            }
            prop_assert_eq!(unpacked(&all, &joined), values.clone());
            prop_assert!(halo_is_clean(&all, &joined), "the halo was written");
        }
    }

    #[test]
    fn maps_become_rows_and_come_back(channels in 1..=40usize, size in [1..=6usize, 1..=20usize], spare in spare(), add: bool) {
        let maps = Maps::new(channels, size).with_halo(spare);
        let values = noise("values", channels * size[0] * size[1]);
        let before = noise("before", values.len());
        let sums: Vec<f32> = values.iter().zip(&before).map(|(a, b)| if add { a + b } else { *a }).collect();
        for path in Path::available() {
            let flatten = Flatten::new(path, &maps);
            let mut row: Vec<f32> = before.iter().copied().chain([3.0]).collect();
            flatten.forward(&packed(&maps, &values), &mut row, add);
            prop_assert_eq!(row.pop(), Some(3.0));
            prop_assert_eq!(&row, &sums);
            let mut back = if add { packed_gradient(&maps, &before) } else { packed(&maps, &before) };
            flatten.backward(&values, &mut back, add);
            prop_assert_eq!(unpacked(&maps, &back), sums.clone());
            prop_assert!(padding_is_zero(&maps, &back), "zeros behind the last channel");
        }
    }
}
