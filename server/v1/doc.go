// Package v1 is Frostpin's own API, version 1, as types and routes: generated from ../api-v1.yaml, which is its
// contract and is embedded here.
//
// It owns what the generator makes of the document and nothing else. It must not know what answers.
package v1
