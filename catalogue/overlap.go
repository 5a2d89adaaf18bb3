package catalogue

import (
	"iter"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"

	"signaldevice/device"
)

// Bounds of the search for a line that two patterns read differently.
const (
	maxSteps = 20_000  // from one pair of states to another; patterns that need more are not compared
	maxTried = 1 << 20 // bytes of all lines
)

// disagreement returns a line that both forms take and read differently, false where none was found. The search walks
// both patterns at once, as automata, and tries one line for each pair of states that both can be in. So what it finds is
// proven, by the patterns themselves. It misses what shows only in lines that come through the same states another way,
// and patterns that are too large together.
func disagreement(a, b *textForm) (line string, found bool) {
	if a.pattern == b.pattern {
		return "", false
	}
	tried := 0
	for line := range newOverlap(automaton(a.pattern), automaton(b.pattern)).lines() {
		if tried += len(line); tried > maxTried {
			break
		}
		first, ok := a.read(exampleID, line)
		if !ok {
			continue
		}
		second, ok := b.read(exampleID, line)
		if ok && describe(first) != describe(second) {
			return strings.ReplaceAll(line, string(exampleID), device.Placeholder), true
		}
	}
	return "", false
}

// automaton compiles a pattern in which the request id is fixed.
func automaton(pattern string) *syntax.Prog {
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		panic("catalogue: a pattern that was compiled is none")
	}
	for _, group := range groupsNamed(tree, groupRequestID) {
		group.Sub = []*syntax.Regexp{{Op: syntax.OpLiteral, Rune: []rune(exampleID)}}
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		panic("catalogue: a pattern that was compiled cannot be")
	}
	return prog
}

// pair is where two automata stand after the same line: each at an instruction that takes a character, or at its end.
type pair struct{ a, b uint32 }

// step leads from one pair to another by a character.
type step struct {
	from, to pair
	char     rune
}

// overlap is what two automata can do at once.
type overlap struct {
	a, b   *syntax.Prog
	steps  []step
	pairs  []pair        // in the order in which they were first reached
	first  map[pair]step // by which a pair was first reached; for those at the start, a step that leads nowhere
	onward map[pair]step // the first one of a shortest way to the end of both; at the end, a step that leads nowhere
}

// newOverlap explores two automata breadth first, so that each pair is reached by a shortest line. Where that takes too
// many steps, nothing is known of them.
func newOverlap(a, b *syntax.Prog) *overlap {
	w := &overlap{a: a, b: b, first: map[pair]step{}, onward: map[pair]step{}}
	within := w.reach(uint32(a.Start), uint32(b.Start), nil)
	for i := 0; within && i < len(w.pairs); i++ {
		from := w.pairs[i]
		x, y := &a.Inst[from.a], &b.Inst[from.b]
		if char, ok := common(x, y, i); ok {
			within = w.reach(x.Out, y.Out, &step{from: from, char: char})
		}
	}
	if within {
		w.findEnds()
	}
	return w
}

// reach notes every pair that two instructions lead to, by a step from the pair before; nil: at the start. It returns
// false when there are too many.
func (w *overlap) reach(x, y uint32, by *step) bool {
	toA, toB := targets(w.a, x), targets(w.b, y)
	if len(w.steps)+len(toA)*len(toB) > maxSteps {
		return false
	}
	for _, a := range toA {
		for _, b := range toB {
			s := step{to: pair{a, b}}
			if by != nil {
				s.from, s.char = by.from, by.char
				w.steps = append(w.steps, s)
			}
			if _, known := w.first[s.to]; !known {
				w.first[s.to] = s
				w.pairs = append(w.pairs, s.to)
			}
		}
	}
	return true
}

// findEnds walks backwards from the ends, and notes how each pair gets there.
func (w *overlap) findEnds() {
	into := map[pair][]step{}
	for _, s := range w.steps {
		into[s.to] = append(into[s.to], s)
	}
	var reached []pair
	for _, p := range w.pairs {
		if w.a.Inst[p.a].Op == syntax.InstMatch && w.b.Inst[p.b].Op == syntax.InstMatch {
			w.onward[p] = step{from: p}
			reached = append(reached, p)
		}
	}
	for i := 0; i < len(reached); i++ {
		for _, s := range into[reached[i]] {
			if _, known := w.onward[s.from]; !known {
				w.onward[s.from] = s
				reached = append(reached, s.from)
			}
		}
	}
}

// lines are, for each pair from which both automata can end, a line that leads there and to the end.
func (w *overlap) lines() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, p := range w.pairs {
			if _, ends := w.onward[p]; ends && !yield(w.line(p)) {
				return
			}
		}
	}
}

func (w *overlap) line(through pair) string {
	var chars []rune
	for s := w.first[through]; s.char != 0; s = w.first[s.from] {
		chars = append(chars, s.char)
	}
	slices.Reverse(chars)
	for s := w.onward[through]; s.char != 0; s = w.onward[s.to] {
		chars = append(chars, s.char)
	}
	return string(chars)
}

// targets returns the instructions that are reached from pc without taking a character: those that take one, and the end.
// What asks for a place in the line, such as \b, is passed: the patterns themselves decide in the end.
func targets(prog *syntax.Prog, pc uint32) []uint32 {
	var found []uint32
	seen := map[uint32]bool{}
	var follow func(uint32)
	follow = func(pc uint32) {
		if seen[pc] {
			return
		}
		seen[pc] = true
		switch inst := &prog.Inst[pc]; inst.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			follow(inst.Out)
			follow(inst.Arg)
		case syntax.InstCapture, syntax.InstEmptyWidth, syntax.InstNop:
			follow(inst.Out)
		case syntax.InstFail:
		default:
			found = append(found, pc)
		}
	}
	follow(pc)
	return found
}

// readable are the characters that a line is made of where both patterns take them.
const readable = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// common returns a character that both instructions take, one that people can read where there is one. Another turn
// prefers another one, so that two fields of a line have different values. NUL is in no line that is read as text.
func common(x, y *syntax.Inst, turn int) (rune, bool) {
	if x.Op == syntax.InstMatch || y.Op == syntax.InstMatch {
		return 0, false
	}
	takes := func(c rune) bool { return c > 0 && c <= unicode.MaxRune && x.MatchRune(c) && y.MatchRune(c) }
	for i := range len(readable) {
		if c := rune(readable[(turn+i)%len(readable)]); takes(c) {
			return c, true
		}
	}
	for c := rune(' '); c <= '~'; c++ {
		if takes(c) {
			return c, true
		}
	}
	// Two sets of ranges have something in common only if a range of one begins inside a range of the other.
	for _, c := range slices.Concat([]rune{1}, x.Rune, y.Rune) {
		if takes(c) {
			return c, true
		}
	}
	return 0, false
}
