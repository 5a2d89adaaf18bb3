package catalogue

import (
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"

	"signaldevice/device"
)

// maxOverlap bounds the search for a line that two patterns read differently, in steps from one pair of states to another.
const maxOverlap = 50_000

// disagreement returns a line that both forms take and read differently, false where none was found. The search walks
// both patterns at once, as automata, and tries one line for each pair of states that both can be in. So what it finds is
// proven, with the patterns themselves; what it misses are lines that differ only in which way they took, and patterns
// that are too large together.
func disagreement(a, b *textForm) (line string, found bool) {
	if a.pattern == b.pattern {
		return "", false
	}
	w := &overlap{a: automaton(a.pattern), b: automaton(b.pattern), seen: map[pair]step{}, before: map[pair][]step{}}
	for _, line := range w.lines() {
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

// step is how a pair was first reached.
type step struct {
	from  pair
	char  rune
	first bool
}

// overlap is a walk over two automata at once.
type overlap struct {
	a, b   *syntax.Prog
	seen   map[pair]step
	all    []pair          // seen, in the order of the walk
	before map[pair][]step // every step that leads to a pair
	steps  int
}

// lines returns a line through each pair of states that lies on a way to the end of both patterns.
func (w *overlap) lines() []string {
	w.explore()
	tails := w.tails()
	var lines []string
	for _, p := range w.all {
		if tail, ends := tails[p]; ends {
			lines = append(lines, w.head(p)+tail)
		}
	}
	return lines
}

// explore walks breadth first, so that every head is a shortest one.
func (w *overlap) explore() {
	w.reach(uint32(w.a.Start), uint32(w.b.Start), step{first: true})
	for i := 0; i < len(w.all); i++ {
		from := w.all[i]
		x, y := &w.a.Inst[from.a], &w.b.Inst[from.b]
		if char, ok := common(x, y); ok {
			w.reach(x.Out, y.Out, step{from: from, char: char})
		}
	}
}

// reach notes every pair that a step leads to, as far as the search may go.
func (w *overlap) reach(x, y uint32, s step) {
	toA, toB := targets(w.a, x), targets(w.b, y)
	for _, a := range toA {
		for _, b := range toB {
			if w.steps++; w.steps > maxOverlap {
				return
			}
			to := pair{a, b}
			if !s.first {
				w.before[to] = append(w.before[to], s)
			}
			if _, known := w.seen[to]; !known {
				w.seen[to] = s
				w.all = append(w.all, to)
			}
		}
	}
}

// head returns a line that leads to the pair.
func (w *overlap) head(p pair) string {
	var chars []rune
	for s := w.seen[p]; !s.first; s = w.seen[p] {
		chars = append(chars, s.char)
		p = s.from
	}
	slices.Reverse(chars)
	return string(chars)
}

// tails returns, for each pair from which both patterns can end, a line that does so. It walks backwards from the ends.
func (w *overlap) tails() map[pair]string {
	var reached []pair
	tails := map[pair]string{}
	for _, p := range w.all {
		if w.a.Inst[p.a].Op == syntax.InstMatch && w.b.Inst[p.b].Op == syntax.InstMatch {
			reached, tails[p] = append(reached, p), ""
		}
	}
	for i := 0; i < len(reached); i++ {
		for _, s := range w.before[reached[i]] {
			if _, known := tails[s.from]; !known {
				reached, tails[s.from] = append(reached, s.from), string(s.char)+tails[reached[i]]
			}
		}
	}
	return tails
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

// common returns a character that both instructions take, one that people can read where there is one.
func common(x, y *syntax.Inst) (rune, bool) {
	if x.Op == syntax.InstMatch || y.Op == syntax.InstMatch {
		return 0, false
	}
	takes := func(c rune) bool { return c >= 0 && c <= unicode.MaxRune && x.MatchRune(c) && y.MatchRune(c) }
	for _, c := range "0a A" {
		if takes(c) {
			return c, true
		}
	}
	for c := rune('!'); c <= '~'; c++ {
		if takes(c) {
			return c, true
		}
	}
	// Two sets of ranges have something in common only if one of them begins a range inside the other.
	for _, c := range slices.Concat(x.Rune, y.Rune) {
		if takes(c) {
			return c, true
		}
	}
	return 0, false
}
