"""Full text search with facets over documents of any kind; listings are the first.

    segment     text to tokens, query to phrases: one way for both databases
    document    what is indexed, what is asked, what is answered
    index       put, remove, rebuild: in the caller's transaction
    sqlite      FTS5: keep and match tokens
    postgres    tsvector and GIN: the same
    columns     facets and sort keys of every document, in memory, kept up to date
    engine      match, filter, count, sort, page

The database answers one question, "which documents hold these words". Filters, facet counts and order
are set arithmetic on the columns, so they cost the same and come out the same on both databases.
"""
