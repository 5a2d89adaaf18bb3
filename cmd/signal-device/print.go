package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// printJSON prints one document, indented.
func printJSON(w io.Writer, data json.RawMessage) error {
	var b bytes.Buffer
	if err := json.Indent(&b, data, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(w)
	return err
}

// printLines prints one document a line, each as soon as it is there.
func printLines(w io.Writer, items iter.Seq2[json.RawMessage, error]) error {
	for item, err := range items {
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if err := json.Compact(&b, item); err != nil {
			return err
		}
		b.WriteByte('\n')
		if _, err := b.WriteTo(w); err != nil {
			return err
		}
	}
	return nil
}

// printTable prints one row for each item, below a header. Nothing is printed where an item cannot be had.
func printTable[T any](w io.Writer, header []string, items iter.Seq2[json.RawMessage, error], row func(T) []string) error {
	rows := [][]string{header}
	for item, err := range items {
		if err != nil {
			return err
		}
		var v T
		if err := json.Unmarshal(item, &v); err != nil {
			return fmt.Errorf("the answer is not that of this API: %w", err)
		}
		rows = append(rows, row(v))
	}
	return writeRows(w, rows)
}

// printDocument prints one answer of the API as JSON, or for people.
func printDocument[T any](w io.Writer, answer json.RawMessage, asJSON bool, show func(T, io.Writer) error) error {
	if asJSON {
		return printJSON(w, answer)
	}
	var v T
	if err := json.Unmarshal(answer, &v); err != nil {
		return fmt.Errorf("the answer is not that of this API: %w", err)
	}
	return show(v, w)
}

// writeRows aligns the columns. What cameras and other people wrote cannot steer the terminal.
func writeRows(w io.Writer, rows [][]string) error {
	var b bytes.Buffer
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = printable(cell)
		}
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(b.String()) { // a last cell may be empty, and leaves spaces
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// printable replaces what is not seen when it is printed: control characters, and those that turn the direction.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

func formatTime(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// formatMoment is for moments that lie close together.
func formatMoment(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05.000Z")
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
