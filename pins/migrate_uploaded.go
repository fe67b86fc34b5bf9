package pins

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// uploadedMigration marks the roots whose blocks came with an upload, until they are held: nobody else may have them.
func uploadedMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261129_80_uploaded",
		Migrate: func(tx *gorm.DB) error {
			return execute(tx, []string{
				`ALTER TABLE roots ADD COLUMN uploaded SMALLINT NOT NULL DEFAULT 0`,
				`CREATE INDEX roots_uploaded ON roots (next_ms) WHERE uploaded = 1 AND claimed_by = ''`,
			})
		},
	}
}
