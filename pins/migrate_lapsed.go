package pins

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// lapsedMigration lets pins be let go that are not paid for, while their rows stay.
func lapsedMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261129_40_grace_pins",
		Migrate: func(tx *gorm.DB) error {
			return execute(tx, []string{
				`ALTER TABLE pins ADD COLUMN lapsed_ms BIGINT`,
				`CREATE INDEX pins_lapsed ON pins (account, root_id) WHERE lapsed_ms IS NOT NULL`,
			})
		},
	}
}
