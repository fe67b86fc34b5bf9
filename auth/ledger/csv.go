package ledger

import (
	"encoding/csv"
	"io"
	"strconv"
	"strings"
	"time"
)

// entryHeader names the columns of WriteEntries, in order.
var entryHeader = []string{"id", "at", "kind", "qty", "free", "unit", "price", "amount", "waived", "balance", "ref", "key"}

// WriteEntries writes entries as CSV, with the names of the columns first if header is set. Amounts are credits.
func WriteEntries(w io.Writer, entries []Entry, header bool) error {
	out := csv.NewWriter(w)
	if header {
		if err := out.Write(entryHeader); err != nil {
			return err
		}
	}
	for _, e := range entries {
		err := out.Write([]string{
			strconv.FormatInt(e.ID, 10), e.At.UTC().Format(time.RFC3339Nano), string(e.Kind), orZero(e.Qty).String(), orZero(e.Free).String(),
			e.Unit, e.Price.String(), e.Amount.String(), e.Waived.String(), e.Balance.String(), cell(e.Ref), cell(e.Key),
		})
		if err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// WriteUsage writes days as CSV, with the names of the columns first.
func WriteUsage(w io.Writer, days []UsageDay) error {
	out := csv.NewWriter(w)
	if err := out.Write([]string{"day", "kind", "qty", "unit"}); err != nil {
		return err
	}
	for _, d := range days {
		if err := out.Write([]string{d.Day, string(d.Kind), orZero(d.Qty).String(), d.Kind.Unit()}); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// cell makes text that others chose safe in a spreadsheet, which takes what begins like these for a formula, also after
// spaces.
func cell(text string) string {
	if trimmed := strings.TrimLeft(text, " \t\r\n\u00a0\u3000\ufeff"); trimmed != "" && strings.ContainsRune("=+-@|%＝＋－＠", []rune(trimmed)[0]) ||
		strings.HasPrefix(text, "\t") || strings.HasPrefix(text, "\r") || strings.HasPrefix(text, "\n") {
		return "'" + text
	}
	return text
}
