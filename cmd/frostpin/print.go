package main

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// jsonFlag is the flag of every command that prints a list or a report.
const jsonFlag = "json"

func wantsJSON(c *cobra.Command) bool {
	wanted, err := c.Flags().GetBool(jsonFlag)
	return err == nil && wanted
}

// printJSON writes v, indented, for jq and for eyes.
func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	return nil
}

// printTable writes rows in columns.
func printTable(w io.Writer, rows [][]string) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		if _, err := fmt.Fprintln(table, strings.Join(row, "\t")); err != nil {
			return fmt.Errorf("printing: %w", err)
		}
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	return nil
}

// printList writes items as JSON or as a table, as the command's flag says.
func printList[T any](c *cobra.Command, items []T, heading []string, row func(T) []string) error {
	return printStream(c, func(yield func(T, error) bool) {
		for _, item := range items {
			if !yield(item, nil) {
				return
			}
		}
	}, heading, row)
}

// chunk is how many rows of a table are aligned with each other. A longer list is printed while it is read.
const chunk = 1000

// printStream writes items as they come, so that a million of them need no memory.
func printStream[T any](c *cobra.Command, items iter.Seq2[T, error], heading []string, row func(T) []string) error {
	if wantsJSON(c) {
		return printJSONStream(c.OutOrStdout(), items)
	}
	rows := [][]string{heading}
	for item, err := range items {
		if err != nil {
			return err
		}
		cells := row(item)
		for i, cell := range cells {
			cells[i] = plain(cell)
		}
		if rows = append(rows, cells); len(rows) == chunk {
			if err := printTable(c.OutOrStdout(), rows); err != nil {
				return err
			}
			rows = rows[:0]
		}
	}
	return printTable(c.OutOrStdout(), rows)
}

// printJSONStream writes one array.
func printJSONStream[T any](w io.Writer, items iter.Seq2[T, error]) error {
	opening := "["
	for item, err := range items {
		if err != nil {
			return err
		}
		encoded, err := json.MarshalIndent(item, "  ", "  ")
		if err == nil {
			_, err = fmt.Fprintf(w, "%s\n  %s", opening, encoded)
		}
		if err != nil {
			return fmt.Errorf("printing: %w", err)
		}
		opening = ","
	}
	closing := "\n]\n"
	if opening == "[" {
		closing = "[]\n"
	}
	if _, err := io.WriteString(w, closing); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	return nil
}

// plain makes text that users chose harmless for a terminal.
func plain(text string) string {
	if text == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return '\ufffd'
		}
		return r
	}, text)
}

// moment is how a time is printed: UTC, to the second.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// readable rounds a number of bytes for people.
func readable(bytes int64) string {
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	value, unit := float64(bytes), 0
	for value >= 1024 && unit < len(sizeUnits)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %s", value, sizeUnits[unit])
}
