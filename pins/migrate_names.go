package pins

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// namesMigration lets a search for a part of a name read names only: in the order of the status index, which grows at its
// end, a name stands once; the name index has each of them twice and is read at random.
//
// name_odd is the name without case where the database's own lower, which knows ASCII alone, gives another text, and
// NULL for all other names.
func namesMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261128_90_names",
		Migrate: func(tx *gorm.DB) error {
			column := `TEXT`
			if tx.Name() == "postgres" {
				column = `TEXT COLLATE "C"`
			}
			return execute(tx, []string{
				`ALTER TABLE pins ADD COLUMN name_odd ` + column,
				`UPDATE pins SET name_odd = name_folded WHERE name_folded <> lower(name)`,
				`DROP INDEX pins_status`,
				`CREATE INDEX pins_status ON pins (account, status, created_ms, name, name_odd)`,
			})
		},
	}
}
