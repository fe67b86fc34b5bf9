package main

import (
	"encoding/json"
	"fmt"
	"io"
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

// printTable writes rows in columns under a heading.
func printTable(w io.Writer, heading []string, rows [][]string) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{heading}, rows...) {
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
	if wantsJSON(c) {
		if items == nil {
			items = []T{}
		}
		return printJSON(c.OutOrStdout(), items)
	}
	rows := make([][]string, len(items))
	for i, item := range items {
		rows[i] = row(item)
		for j, cell := range rows[i] {
			rows[i][j] = plain(cell)
		}
	}
	return printTable(c.OutOrStdout(), heading, rows)
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
