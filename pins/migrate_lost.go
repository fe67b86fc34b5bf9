package pins

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// lostMigration marks the roots whose hot copy was lost, so that they are told from those that were never held.
func lostMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261129_50_lost",
		Migrate: func(tx *gorm.DB) error {
			return tx.Exec(`ALTER TABLE roots ADD COLUMN lost SMALLINT NOT NULL DEFAULT 0`).Error
		},
	}
}
