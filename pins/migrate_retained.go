package pins

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// retainedMigration remembers for whom a replaced DAG is kept, and by which pin, whose holding goes on. What was replaced
// before has no such pin, and costs nothing until it is let go.
func retainedMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261129_80_retained_accounts",
		Migrate: func(tx *gorm.DB) error {
			return execute(tx, []string{
				`ALTER TABLE retained ADD COLUMN account BIGINT NOT NULL DEFAULT 0`,
				`ALTER TABLE retained ADD COLUMN pin CTEXT NOT NULL DEFAULT ''`,
				`UPDATE retained SET account = coalesce((SELECT p.account FROM pins p WHERE p.id = retained.successor), 0)`,
				`CREATE INDEX retained_account ON retained (account, root_id)`,
			})
		},
	}
}
