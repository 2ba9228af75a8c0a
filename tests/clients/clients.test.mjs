// node-postgres, Postgres.js and Drizzle with pgvector's helpers: each inserts, searches and makes its index.
// PG_EMBED_CLIENTS_DATABASES names databases with vector and embed, whose model has 32 dimensions.

import assert from 'node:assert'
import test from 'node:test'
import { cosineDistance, sql as raw } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { index, pgTable, serial, text, vector } from 'drizzle-orm/pg-core'
import pg from 'pg'
import pgvector from 'pgvector/pg'
import { toSql } from 'pgvector'
import postgres from 'postgres'

const host = process.env.PG_EMBED_CLIENTS_HOST
const port = Number(process.env.PG_EMBED_CLIENTS_PORT)
const texts = ['hello world', 'the quick brown fox', 'text number 7', 'vectors are numbers']

for (const database of process.env.PG_EMBED_CLIENTS_DATABASES.split(',')) {
  test(`pg in ${database}`, async () => {
    const client = new pg.Client({ host, port, user: 'postgres', database })
    await client.connect()
    await pgvector.registerTypes(client)
    await client.query('CREATE TABLE by_pg (body text, embedding vector(32))')
    for (const body of texts) {
      const { rows: [{ embed }] } = await client.query('SELECT embed($1)', [body])
      assert.equal(embed.length, 32)
      await client.query('INSERT INTO by_pg VALUES ($1, $2)', [body, pgvector.toSql(embed)])
    }
    await client.query('CREATE INDEX ON by_pg USING ivf (embedding vector_cosine_ops)')
    for (const body of texts) {
      const { rows: [{ embedding }] } = await client.query('SELECT embedding FROM by_pg WHERE body = $1', [body])
      for (const [parameter, value] of [['$1', pgvector.toSql(embedding)], ['embed($1)', body]]) {
        const nearest = `SELECT body FROM by_pg ORDER BY embedding <=> ${parameter} LIMIT 1`
        assert.equal((await client.query(nearest, [value])).rows[0].body, body)
      }
    }
    await client.end()
  })

  test(`postgres in ${database}`, async () => {
    const sql = postgres({ host, port, path: `${host}/.s.PGSQL.${port}`, user: 'postgres', database })
    await sql`CREATE TABLE by_postgres (body text, embedding vector(32))`
    for (const body of texts) {
      const [{ embed }] = await sql`SELECT embed(${body})`
      await sql`INSERT INTO by_postgres VALUES (${body}, ${toSql(JSON.parse(embed))})`
    }
    await sql`CREATE INDEX ON by_postgres USING ivf (embedding vector_cosine_ops)`
    for (const body of texts) {
      const [{ embedding }] = await sql`SELECT embedding FROM by_postgres WHERE body = ${body}`
      const byVector = await sql`SELECT body FROM by_postgres ORDER BY embedding <=> ${embedding} LIMIT 1`
      const byText = await sql`SELECT body FROM by_postgres ORDER BY embedding <=> embed(${body}) LIMIT 1`
      assert.deepEqual([byVector[0].body, byText[0].body], [body, body])
    }
    await sql.end()
  })

  test(`drizzle in ${database}`, async () => {
    const pool = new pg.Pool({ host, port, user: 'postgres', database })
    const db = drizzle(pool)
    const docs = pgTable(
      'by_drizzle',
      { id: serial().primaryKey(), body: text(), embedding: vector({ dimensions: 32 }) },
      (table) => [index('by_drizzle_ivf').using('ivf', table.embedding.op('vector_cosine_ops'))]
    )
    await pool.query('CREATE TABLE by_drizzle (id serial PRIMARY KEY, body text, embedding vector(32))')
    await pool.query('CREATE INDEX by_drizzle_ivf ON by_drizzle USING ivf (embedding vector_cosine_ops)')
    await db.insert(docs).values(texts.map((body) => ({ body, embedding: raw`embed(${body}::text)` })))
    for (const { body, embedding } of await db.select().from(docs)) {
      assert.equal(embedding.length, 32)
      for (const distance of [cosineDistance(docs.embedding, embedding), raw`${docs.embedding} <=> embed(${body}::text)`]) {
        const [nearest] = await db.select({ body: docs.body }).from(docs).orderBy(distance).limit(1)
        assert.equal(nearest.body, body)
      }
    }
    await pool.end()
  })
}
