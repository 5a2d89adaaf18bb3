package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// WriteText writes the report for a terminal.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n\n", r.Machine, r.Plan)
	align(&b, r.table(r.rows()), 1)
	for _, s := range r.Systems {
		b.WriteString(s.notes())
	}
	if r.Idle != nil {
		b.WriteString(r.Idle.text())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// table returns cells: a head, and a line for each row with the figure of each system and how many times that of another
// system ours is.
func (r Report) table(rows []row) [][]string {
	head := []string{""}
	for i, s := range r.Systems {
		head = append(head, s.Name)
		if i > 0 {
			head = append(head, "ours")
		}
	}
	cells := [][]string{head}
	for _, row := range rows {
		line := []string{row.title()}
		for i, v := range row.values {
			line = append(line, row.show(v))
			if i > 0 {
				line = append(line, row.times(i))
			}
		}
		cells = append(cells, line)
	}
	return cells
}

// align writes cells in columns: the first ones to the left, the others, which hold figures, to the right.
func align(b *strings.Builder, cells [][]string, left int) {
	var widths []int
	for _, line := range cells {
		for i, cell := range line {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, line := range cells {
		var text strings.Builder
		for i, cell := range line {
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i > 0 {
				text.WriteString("  ")
			}
			if i < left {
				text.WriteString(cell + padding)
			} else {
				text.WriteString(padding + cell)
			}
		}
		b.WriteString(strings.TrimRight(text.String(), " ") + "\n")
	}
}

// notes are what the table has no room for: processes, errors by kind, and how rounds differ.
func (s SystemReport) notes() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n", s.Name)
	for _, p := range s.Load.Processes {
		fmt.Fprintf(&b, "  %-14s %s ms CPU an exchange, %s MB resident, %s MB at the most\n",
			p.Name, number(p.CPU), number(megabytes(p.RSS)), number(megabytes(p.Peak)))
	}
	if len(s.Load.RoundP99) > 1 {
		fmt.Fprintf(&b, "  p99 of the rounds: %s ms\n", strings.Join(numbers(s.Load.RoundP99), ", "))
	}
	for _, kind := range slices.Sorted(maps.Keys(s.Load.Errors)) {
		fmt.Fprintf(&b, "  %d exchanges failed: %s\n", s.Load.Errors[kind], kind)
	}
	if s.Load.CamerasLost > 0 {
		fmt.Fprintf(&b, "  %d cameras lost their connection\n", s.Load.CamerasLost)
	}
	if l := s.Limit; l != nil {
		fmt.Fprintf(&b, "  highest rate with p99 under %s ms: %s\n", number(l.Bound), l)
	}
	return b.String()
}

// String is the rate, and what it cost.
func (l Limit) String() string {
	if l.Rate == 0 {
		return "none was found"
	}
	failed := "none that was tried broke it"
	if l.Failed > 0 {
		failed = number(l.Failed) + " broke it"
	}
	return fmt.Sprintf("%s a second (p99 %s ms; %s)", number(l.Rate), number(l.P99), failed)
}

func (r IdleReport) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%d cameras connected and idle (%s s to register and connect them)\n", r.Cameras, number(r.Connect))
	for _, p := range r.Processes {
		fmt.Fprintf(&b, "  %-14s %s MB resident, %s MB without cameras, %s MB at the most\n",
			p.Process, number(megabytes(p.After)), number(megabytes(p.Before)), number(megabytes(p.Peak)))
	}
	return b.String()
}
