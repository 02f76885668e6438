//! The shape lists in `shapes/`: a shape a line, a name and its numbers; `#` begins a comment.

use cnnkern::Conv2dParams;

use crate::peak::Effort;

macro_rules! list {
    ($name:literal) => {
        $crate::shapes::List { name: $name, text: include_str!(concat!("shapes/", $name, ".txt")) }
    };
}
pub(crate) use list;

/// One of them: `list!` of its name.
#[derive(Clone, Copy)]
pub struct List {
    pub name: &'static str,
    pub text: &'static str,
}

impl List {
    /// The name and the numbers of each line.
    pub fn lines<const N: usize>(self) -> impl Iterator<Item = (&'static str, [usize; N])> {
        let list = self.name;
        self.text.lines().enumerate().filter_map(move |(index, line)| {
            let mut words = line.split('#').next()?.split_whitespace();
            let name = words.next()?;
            let numbers: Option<Vec<usize>> = words.map(|word| word.parse().ok()).collect();
            match numbers.map(<[usize; N]>::try_from) {
                Some(Ok(numbers)) => Some((name, numbers)),
                _ => panic!("shapes/{list}.txt:{}: {N} numbers must follow \"{name}\"", index + 1),
            }
        })
    }
}

/// The convolutions of all networks, as `network/layer`.
pub fn convolutions(effort: Effort) -> Vec<(String, Conv2dParams)> {
    let networks = [list!("resnet50"), list!("vgg16"), list!("mobilenet_v1"), list!("lenet5")];
    let layers = |list: List| {
        list.lines().map(move |(layer, numbers)| {
            (format!("{}/{layer}", list.name), convolution(numbers, effort))
        })
    };
    networks.into_iter().flat_map(layers).collect()
}

fn convolution(numbers: [usize; 9], effort: Effort) -> Conv2dParams {
    let [batch, in_channels, height, width, out_channels, kernel, stride, pad, groups] = numbers;
    Conv2dParams {
        stride_height: stride,
        stride_width: stride,
        pad_top: pad,
        pad_bottom: pad,
        pad_left: pad,
        pad_right: pad,
        groups,
        ..Conv2dParams::new(
            images(batch, effort),
            in_channels,
            height,
            width,
            out_channels,
            kernel,
            kernel,
        )
    }
}

/// As many as are tried: one in a trial.
pub fn images(batch: usize, effort: Effort) -> usize {
    if effort == Effort::Trial { 1 } else { batch }
}
