package compat

// Rule names a kind of change that breaks somebody.
type Rule string

// The rules, by what they protect.
const (
	TopicRemoved         Rule = "MQ_TOPIC_REMOVED"
	TopicName            Rule = "MQ_TOPIC_NAME"
	TopicMessage         Rule = "MQ_TOPIC_MESSAGE"
	TopicKey             Rule = "MQ_TOPIC_KEY"
	TopicPartitions      Rule = "MQ_TOPIC_PARTITIONS"
	TopicOrdering        Rule = "MQ_TOPIC_ORDERING"
	TopicDelivery        Rule = "MQ_TOPIC_DELIVERY"
	TopicPriorityLevels  Rule = "MQ_TOPIC_PRIORITY_LEVELS"
	TopicDedupe          Rule = "MQ_TOPIC_DEDUPE"
	TopicHeader          Rule = "MQ_TOPIC_HEADER"
	TopicRetention       Rule = "MQ_TOPIC_RETENTION"
	TopicTTL             Rule = "MQ_TOPIC_TTL"
	TopicMaxMessageBytes Rule = "MQ_TOPIC_MAX_MESSAGE_BYTES"

	SubscriptionRemoved    Rule = "MQ_SUBSCRIPTION_REMOVED"
	SubscriptionGroup      Rule = "MQ_SUBSCRIPTION_GROUP"
	SubscriptionAttempts   Rule = "MQ_SUBSCRIPTION_ATTEMPTS"
	SubscriptionDeadLetter Rule = "MQ_SUBSCRIPTION_DEAD_LETTER"
	SubscriptionFilter     Rule = "MQ_SUBSCRIPTION_FILTER"
)

// Description is a rule as people choose it.
type Description struct {
	Rule    Rule
	Purpose string // one sentence
	// Optional rules apply only where they are asked for: what they find is as often meant as not.
	Optional bool
}

// Rules returns all rules, in the order of the documentation.
func Rules() []Description {
	return []Description{
		{TopicRemoved, "Checks that no topic disappears.", false},
		{TopicName, "Checks that a topic stays reachable under each name that it had.", false},
		{TopicMessage, "Checks that a topic keeps its message type.", false},
		{TopicKey, "Checks that a topic keeps its key field.", false},
		{TopicPartitions, "Checks that a topic keeps its number of partitions.", false},
		{TopicOrdering, "Checks that a topic keeps its ordering.", false},
		{TopicDelivery, "Checks that a topic keeps its delivery.", false},
		{TopicPriorityLevels, "Checks that a topic keeps its number of priority levels.", false},
		{TopicDedupe, "Checks that a topic keeps its dedupe id and that its window does not shrink.", false},
		{TopicHeader, "Checks that a topic keeps its headers and the fields that they come from.", false},
		{TopicRetention, "Checks that a topic does not keep messages for less time or in fewer bytes.", false},
		{TopicTTL, "Checks that messages of a topic do not expire earlier.", false},
		{TopicMaxMessageBytes, "Checks that a topic does not take smaller messages only.", false},
		{SubscriptionRemoved, "Checks that no group loses a subscription.", false},
		{SubscriptionGroup, "Checks that a subscription keeps its group and so its position.", false},
		{SubscriptionAttempts, "Checks that a message does not get fewer attempts.", false},
		{SubscriptionDeadLetter, "Checks that dead letters are not dropped or deleted earlier.", false},
		{SubscriptionFilter, "Checks that a subscription keeps its filter.", true},
	}
}
