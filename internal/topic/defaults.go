package topic

import "time"

// What holds where the annotations are silent.
const (
	DefaultPartitions      = 16
	DefaultRetention       = 7 * 24 * time.Hour
	DefaultMaxMessageBytes = 1 << 20
	DefaultPriorityLevels  = 1
	DefaultDedupeWindow    = 10 * time.Minute

	DefaultMaxAttempts     = 8
	DefaultInitialInterval = time.Second
	DefaultMaxInterval     = 5 * time.Minute
	DefaultCoefficient     = 2.0
	DefaultJitter          = 0.2

	DefaultMaxInFlight       = 64
	DefaultProcessingTimeout = 5 * time.Minute
	DefaultLease             = 30 * time.Second

	DefaultBatchMessages = 100
	DefaultBatchBytes    = 1 << 20
)

// What the annotations may say.
const (
	MaxNameBytes      = 249 // of topic, group and header names
	MaxHeaders        = 64
	MaxPartitions     = 1024
	MaxPriorityLevels = 10
	MaxMessageBytes   = 1 << 20
	MinDedupeWindow   = time.Second
	MaxDedupeWindow   = 7 * 24 * time.Hour
	// MaxAge bounds retention.
	MaxAge   = 100 * 365 * 24 * time.Hour
	MaxDelay = 3653 * 24 * time.Hour
	MinTTL   = time.Millisecond
	MaxTTL   = 3653 * 24 * time.Hour

	MaxMaxAttempts     = 1000
	MinInitialInterval = time.Millisecond
	MaxInitialInterval = 24 * time.Hour
	MaxMaxInterval     = 7 * 24 * time.Hour
	MaxCoefficient     = 100.0

	MaxMaxInFlight       = 65_536
	MinProcessingTimeout = time.Millisecond
	MaxProcessingTimeout = 12 * time.Hour
	MinLease             = time.Second
	MaxLease             = 10 * time.Minute

	MaxBatchMessages = 10_000
	MaxBatchWait     = time.Minute
	MaxBatchBytes    = 4 << 20
)
