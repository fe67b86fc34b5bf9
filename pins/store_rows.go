package pins

import (
	"slices"
	"strings"

	"gorm.io/gorm"
)

// rowsOf are the rows of one insert.
type rowsOf [][]any

// each calls do with the rows in portions of few sizes, so that there are only as many statements to prepare.
func (rows rowsOf) each(do func(values string, args []any) error) error {
	for len(rows) > 0 {
		n := 1
		for n < 64 && 2*n <= len(rows) {
			n *= 2
		}
		one := `(?` + strings.Repeat(`, ?`, len(rows[0])-1) + `)`
		err := do(one+strings.Repeat(`, `+one, n-1), slices.Concat(rows[:n]...))
		if err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

func (rows rowsOf) insert(tx *gorm.DB, before, after string) error {
	return rows.each(func(values string, args []any) error { return exec(tx, before+values+after, args) })
}
