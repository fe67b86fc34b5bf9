package mk12

// BaseURLs are those that an answer names.
var BaseURLs = baseURLs
