//! How far back a compressed message refers (RFC 1951): the check that the library's inflater leaves out.

/// Bits of a stream, the least significant first, and how much was inflated.
struct Reader<'a> {
    octets: &'a [u8],
    at: usize,
    /// Bytes made so far.
    made: usize,
    farthest: usize,
}

/// A canonical Huffman code: how many codes there are of each length, and the symbols in their order.
struct Code {
    counts: [usize; 16],
    symbols: Vec<usize>,
}

const LENGTHS: [(usize, usize); 29] = base_and_bits(3, 4, 258);
const DISTANCES: [(usize, usize); 30] = base_and_bits(1, 2, 32_769);

/// The first value and the further bits of each symbol: `step` symbols for each number of further bits, the first `step` twice.
const fn base_and_bits<const N: usize>(first: usize, step: usize, last: usize) -> [(usize, usize); N] {
    let (mut table, mut base, mut n) = ([(0, 0); N], first, 0);
    while n < N {
        let bits = if n < 2 * step { 0 } else { n / step - 1 };
        table[n] = (base, bits);
        base += 1 << bits;
        n += 1;
    }
    // The last length has a symbol of its own.
    if last == 258 {
        table[N - 1] = (last, 0);
    }
    table
}

/// The largest distance of all references; 0 where there is none.
pub fn farthest(octets: &[u8]) -> usize {
    let mut reader = Reader { octets, at: 0, made: 0, farthest: 0 };
    while reader.at + 3 <= 8 * octets.len() {
        let last = reader.bits(1) == 1;
        match reader.bits(2) {
            0 => reader.stored(),
            1 => {
                let lengths: Vec<usize> = (0..288)
                    .map(|n| [8, 9, 7, 8][(n >= 144) as usize + (n >= 256) as usize + (n >= 280) as usize])
                    .collect();
                reader.block(&Code::new(&lengths), &Code::new(&[5; 30]));
            }
            2 => {
                let (literals, distances) = reader.codes();
                reader.block(&literals, &distances);
            }
            _ => panic!("a block of no known kind"),
        }
        if last {
            break;
        }
    }
    reader.farthest
}

impl Code {
    fn new(lengths: &[usize]) -> Self {
        let mut counts = [0; 16];
        lengths.iter().for_each(|length| counts[*length] += 1);
        counts[0] = 0;
        let mut symbols: Vec<usize> = (0..lengths.len()).filter(|symbol| lengths[*symbol] > 0).collect();
        symbols.sort_by_key(|symbol| lengths[*symbol]);
        Self { counts, symbols }
    }
}

impl Reader<'_> {
    fn bits(&mut self, count: usize) -> usize {
        (0..count).fold(0, |value, n| {
            let bit = self.octets.get(self.at / 8).expect("the stream is cut") >> (self.at % 8) & 1;
            self.at += 1;
            value | usize::from(bit) << n
        })
    }

    fn symbol(&mut self, code: &Code) -> usize {
        let (mut value, mut first, mut index) = (0, 0, 0);
        for count in &code.counts[1..] {
            value |= self.bits(1);
            if value < first + count {
                return code.symbols[index + value - first];
            }
            index += count;
            first = (first + count) << 1;
            value <<= 1;
        }
        panic!("a code that no symbol has");
    }

    fn stored(&mut self) {
        self.at = self.at.next_multiple_of(8);
        let length = self.bits(16);
        self.at += 16 + 8 * length;
        self.made += length;
    }

    /// The codes of a dynamic block (§3.2.7).
    fn codes(&mut self) -> (Code, Code) {
        const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
        let (literals, distances, count) = (257 + self.bits(5), 1 + self.bits(5), 4 + self.bits(4));
        let mut lengths = [0; 19];
        for place in &ORDER[..count] {
            lengths[*place] = self.bits(3);
        }
        let code = Code::new(&lengths);
        let mut lengths: Vec<usize> = Vec::new();
        while lengths.len() < literals + distances {
            let (length, times) = match self.symbol(&code) {
                16 => (*lengths.last().expect("a length to repeat"), 3 + self.bits(2)),
                17 => (0, 3 + self.bits(3)),
                18 => (0, 11 + self.bits(7)),
                length => (length, 1),
            };
            lengths.extend(std::iter::repeat_n(length, times));
        }
        (Code::new(&lengths[..literals]), Code::new(&lengths[literals..]))
    }

    fn block(&mut self, literals: &Code, distances: &Code) {
        loop {
            let symbol = self.symbol(literals);
            match symbol {
                0..256 => self.made += 1,
                256 => return,
                _ => {
                    let (base, bits) = LENGTHS[symbol - 257];
                    let length = base + self.bits(bits);
                    let (base, bits) = DISTANCES[self.symbol(distances)];
                    let distance = base + self.bits(bits);
                    assert!(distance <= self.made, "a reference before the beginning of the message");
                    self.farthest = self.farthest.max(distance);
                    self.made += length;
                }
            }
        }
    }
}
