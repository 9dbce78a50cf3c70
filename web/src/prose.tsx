import Markdown from 'react-markdown'
import rehypeRaw from 'rehype-raw'
import rehypeSanitize from 'rehype-sanitize'
import remarkGfm from 'remark-gfm'

/** Markdown of people, of which no script is left. */
export default function Prose({ children, html }: { children: string; html?: boolean }) {
  return (
    <div className="markdown">
      <Markdown remarkPlugins={[remarkGfm]} rehypePlugins={html ? [rehypeRaw, rehypeSanitize] : [rehypeSanitize]} components={{ img: ({ node: _, ...props }) => <img alt="" {...props} /> }}>
        {children}
      </Markdown>
    </div>
  )
}
