package pins

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// departuresMigration remembers which pins wanted cold copies, for as long as their deals' cost is to be divided.
func departuresMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261129_30_departures",
		Migrate: func(tx *gorm.DB) error {
			return execute(tx, departuresTable)
		},
	}
}

// A row of departures is a pin with terms that was removed. Times are Unix milliseconds.
var departuresTable = []string{
	`CREATE TABLE departures (
		pin      CTEXT  PRIMARY KEY,
		account  BIGINT NOT NULL,
		root     CTEXT  NOT NULL,
		terms    BIGINT NOT NULL,
		since_ms BIGINT NOT NULL,
		until_ms BIGINT NOT NULL
	)`,
	`CREATE INDEX departures_wish ON departures (root, terms, until_ms)`,
	`CREATE INDEX departures_until ON departures (until_ms)`,
}
